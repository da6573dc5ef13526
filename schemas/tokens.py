"""Token ids with a fixed meaning; items follow them."""

# the order is part of the contract: `<= MASK` asks for what is no event, `>= FIRST_ITEM` for items
# PAD is 0 because it fills every column of a batch: no event type, no time and no segment are 0 too
PAD = 0
"""Fills a sequence up to the width of its batch; never an input event, never a label."""
MASK = 1
"""Stands for a masked token, which the model must predict."""
UNK = 2
"""An item that is not in the vocabulary, where the configuration keeps such events."""
FIRST_ITEM = 3
"""The most frequent item; the others follow by falling count, then key."""
