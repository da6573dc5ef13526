"""Typed settings and the files that fill them."""
