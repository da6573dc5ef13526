"""The stages in order, what is out of date, and the run that makes it."""
