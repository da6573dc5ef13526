"""One file per kind of block: what is computed of each client."""
