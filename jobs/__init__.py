"""Spark programs, one file per stage, and what they share."""
