"""Settings of the data that ``ubp generate`` makes: the simulated shop and the benchmark log (``jobs/synthetic``)."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

from conf.inputs import WindowSettings
from conf.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Seed, Settings, Share, require

FEWEST_DAYS = 3 * WindowSettings().target_days
"""Both target windows, and as long an input window."""


@dataclass(frozen=True)
class ShopSettings(Settings):
    """Sizes and rates of the shop; the defaults give a demo that trains in minutes (docs/simulated_shop.md)."""

    # ids are made of the numbers of clients and lie below 2**32 (spread_ids in jobs/synthetic/blocks.py)
    n_clients: Annotated[int, Range(ge=1, le=2**32)] = 3_000
    """Clients drawn; one without a single event appears nowhere."""
    n_days: Annotated[int, Range(ge=FEWEST_DAYS, le=20_000)] = 120
    first_day: date = date(2022, 6, 23)
    seed: Seed = 7
    n_categories: Annotated[int, Range(ge=2)] = 40
    n_products: PositiveInt = 800
    n_other_pages: PositiveInt = 150
    """Pages that show neither a category nor a product."""
    queries_per_category: PositiveInt = 8
    """As many styles has a category: a query leads to the products of one, whose names have codes near its own."""
    launched_share: Share = 0.4
    """Share of products that come into the shop on a later day than the first."""
    consumable_share: Share = 0.35
    """Share of categories whose products are used up, and bought again."""
    co_purchase: Share = 0.15
    """Chance that a product's companion goes into the cart with it."""
    price_pickiness: NonNegativeFloat = 2.5
    """Mean over clients: the chance to put a product into the cart is exp(-pickiness * distance in price)."""
    relevant_share: Share = 0.8
    """Share of clients to embed, chosen by a hash of the id."""
    sessions_per_day: NonNegativeFloat = 0.09
    """Median over clients; the rate is lognormal."""
    sessions_spread: NonNegativeFloat = 1.2
    """Standard deviation of the rate's logarithm: the weight of the tail."""
    rest_days: PositiveFloat = 14.0
    """Median over clients of the mean days from one phase of intent to the next: a client's own rhythm."""
    regularity: Annotated[float, Range(ge=1.0, le=20.0)] = 3.0
    """Shape of the Weibull distribution of a client's rests: 1 has no memory, more is more regular."""
    leave_chance: Annotated[float, Range(ge=0.0, le=0.9)] = 0.1
    """Mean over clients of the chance to leave the shop, unseen, when a phase of intent ends."""
    return_chance: Share = 0.002
    """Per day, of a client who left."""
    habit_share: Share = 0.5
    """Weight of a client's own weekdays and hours against those of all."""
    clients_per_block: PositiveInt = 500
    """Clients simulated together, the unit of randomness and of parallel work: another size is another shop."""

    def __post_init__(self) -> None:
        fewest = 3 * self.n_categories  # leaves no category of the catalogue empty
        require(self.n_products >= fewest, f"n_products must be at least {fewest}; found {self.n_products}")

    @property
    def n_blocks(self) -> int:
        """Blocks of clients; the last may be smaller."""
        return -(-self.n_clients // self.clients_per_block)


@dataclass(frozen=True)
class BenchmarkLogSettings(Settings):
    """Size and seed; all else follows from the challenge's published figures."""

    # at most: a permutation of the events multiplies two such numbers, and the product must stay below 2**63
    n_events: Annotated[int, Range(ge=10_000, le=2_000_000_000)] = 170_000_000
    """Events of all behaviours; clients, products and pages are as many as it takes."""
    seed: Seed = 7
    n_days: Annotated[int, Range(ge=FEWEST_DAYS, le=20_000)] = 140
    last_day: date = date(2022, 11, 9)
    relevant_share: Share = 0.0529
    """Share of clients to embed, chosen by a hash of the id (1,000,000 of 18.9 million in the *challenge*)."""
    clients_per_block: Annotated[int, Range(ge=1, le=10_000_000)] = 50_000
    """Clients drawn together, the unit of randomness and of parallel work: another size is another log."""

    @property
    def first_day(self) -> date:
        """The first of the ``n_days`` days."""
        return self.last_day - timedelta(days=self.n_days - 1)
