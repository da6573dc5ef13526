"""Atomic replacement of files and folders, and the safetensors format."""
