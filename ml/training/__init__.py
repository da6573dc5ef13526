"""The training loop of one rank: step, optimisers, checkpoints, and the exchange between ranks."""
