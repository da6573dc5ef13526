"""Pure DataFrame -> DataFrame functions, one file per subject."""
