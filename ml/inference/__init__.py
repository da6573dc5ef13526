"""What trained models are used for: vectors of sequences, and the items nearest to an item."""
