"""A simulated shop: products and clients whose events follow a small generative model (docs/simulated_shop.md).

- ``catalogue``: products of categories and styles, their prices, names, companions, launches; pages, queries.
- ``clients``: lasting traits, and the chain of days: phases of intent, rests of a client's own length, a hidden end.
- ``sessions``: when a client visits, by its habits, and what it looks at, by its interest and taste.
- ``carts``: what is added, alone or with its companion, bought, removed, and bought again when it is used up.
- ``simulation`` puts these together, ``oracle`` says what is known of a client at a cutoff, ``files`` makes frames.

So the near future follows from the recent past of every behaviour, from its order, and from a client's own rhythm.
"""
