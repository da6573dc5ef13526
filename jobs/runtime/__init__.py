"""What a run stands on: the Spark session, the ranks, locks, progress, logs, and errors as the user reads them."""
