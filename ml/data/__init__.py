"""From stored sequences to the batches of one rank: what a batch is, who reads which rows, and the feeds."""
