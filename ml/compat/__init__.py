"""Workarounds for torch: each names what it works around and when it can go."""
