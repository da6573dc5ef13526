"""The only modules that read and write tables, entries and plain files of a run, and know where these are."""
