"""One file per command that is no stage."""
