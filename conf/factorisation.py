"""Settings of the blocks ``als_category`` and ``als_url``."""

from dataclasses import dataclass

from conf.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Settings


@dataclass(frozen=True)
class FactorisationSettings(Settings):
    """Implicit ALS (Hu, Koren and Volinsky 2008) of clients and items, by Spark MLlib."""

    factors: PositiveInt = 64
    """Columns of each block."""
    seed: Seed = 2025
    iterations: PositiveInt = 10
    regularisation: NonNegativeFloat = 0.1
    alpha: PositiveFloat = 1.0
    """A pair of weight w is preferred with confidence 1 + alpha w."""
    max_clients: PositiveInt = 100_000
    """Clients that are factorised: the most active of those to profile, then the most active others. Every other client
    to profile is solved once against the items' factors."""
    max_items: PositiveInt = 100_000
    """The most frequent items; the others are left out."""
    min_clients: PositiveInt = 2
    """Items of fewer clients are left out: what one client alone has makes it like nobody, and each costs a solution of
    ``factors`` equations in every iteration."""
