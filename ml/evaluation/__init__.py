"""The challenge's probe network."""
