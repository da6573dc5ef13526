"""A simulated shop: products and clients whose events follow a small generative model.

- A category has a next category; a product has a companion, mostly in its own category. Popularity falls by
  Zipf's law. Some products are launched later than the first day.
- A client has three home categories, a price level, a rate of sessions (lognormal) and a readiness to buy. It
  joins on some day and lapses on another; in between, days of intent and of rest follow a Markov chain.
- Its current interest is a category that drifts from day to day: to a home category or to the next category.
- A session goes on with the thread of the one before (the companion of what that one began with), or begins
  a new one with a product of the current interest: popular, launched (lately is better), near the price level.
- Within a session: other pages, which tell intent from rest, the category's page, a query of the category that
  hints at the product, then product pages, each the companion of the one before or a fresh draw.
- Product page -> cart, more often in a home category, near the price level, and late in a thread -> bought at
  the end of the session, bought in the next session, removed, or left.

So the near future follows from the recent past of every behaviour, and from its order.
"""
