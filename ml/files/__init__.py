"""Atomic replacement of files and folders, files of stores, the safetensors and .npy formats."""
