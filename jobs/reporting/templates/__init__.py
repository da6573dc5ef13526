"""The pages that jobs render, as package data."""
