"""Data that `ubp generate` makes: the simulated shop and the benchmark log."""
