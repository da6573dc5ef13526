"""What the report page, the terminal and notebooks show of a run."""
