"""Atomic replacement of files and folders, the safetensors and .npy formats."""
