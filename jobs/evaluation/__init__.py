"""Labels, the probe's units of work, and what scores tell."""
