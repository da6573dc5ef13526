"""DataFrames to DataFrames, without reads and writes; stages and blocks share them."""
