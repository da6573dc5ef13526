"""Settings of the block ``graph``."""

from dataclasses import dataclass
from typing import Annotated

from conf.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed, Settings


@dataclass(frozen=True)
class GraphSettings(Settings):
    """TwHIN (El-Kishky et al. 2022, arXiv:2202.05387) of clients and the skus that they bought and added."""

    item_encoder: str | None = None
    """Encoder whose vectors the skus have, frozen (*fourth place*: of its mixed sequence); None has them learnt."""
    dimensions: PositiveInt = 64
    """Columns of the block (the 4th place of the challenge: 256)."""
    seed: Seed = 2025
    epochs: PositiveInt = 10
    edges_per_batch: Annotated[int, Range(ge=2)] = 1024
    """Of one rank; each edge's negatives are the other targets of its batch."""
    learning_rate: PositiveFloat = 0.01
    scale: PositiveFloat = 10.0
    """A cosine's weight in the logit of an edge, before training: without one, no probability leaves .27 to .73."""
    # an empty range still refuses `true`
    bias: Annotated[float, Range()] = -5.0
    """Of the logit, before training; it is learnt, as the scale is."""
    max_other_clients: NonNegativeInt = 100_000
    """Clients beside those to profile that are in the graph: the most active ones."""
    max_items: PositiveInt = 500_000
    """The skus with the most edges; the others are left out. Every rank holds a vector of each."""
