"""The stages in order, what is out of date, and the run that goes on from the last finished stage."""
