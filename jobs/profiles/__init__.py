"""Profiles composed of blocks by Spark."""
