"""Encoders of sequences and the layers that they are made of; a model knows no loss."""
