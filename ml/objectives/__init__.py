"""What encoders are trained on: from a batch to inputs and targets, and from hidden states to a loss."""
