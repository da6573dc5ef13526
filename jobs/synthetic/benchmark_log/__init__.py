"""A benchmark log: events of any number with the published statistics of the challenge's data set.

It measures the stages that move data; nothing can be learnt from it (``jobs/synthetic/shop`` makes a shop for that).

- How often a client acts, and how often a product is bought or a page seen, is no draw: tables of counts meet the
  published quantiles and totals at every size (``counts``, ``marginals``).
- Clients are ranked by a permutation; the events of all clients, one after another, are numbered, and a permutation
  of the numbers says which event is of which behaviour and item. Within a block of clients both are shuffled, so
  that the rows of a file are in no order and each block holds a fair sample of every item (``events``).
- A client's events fall into sessions, spread over the days; all behaviours share the sessions, so each behaviour
  can be written alone.
"""
