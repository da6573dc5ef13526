"""Labels, the probe's units of work, scores and their comparison."""
