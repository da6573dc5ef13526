"""One file per command that is no stage; flags, and what a call needs first, are of all of them."""
