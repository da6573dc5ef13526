"""The settings of the made shop that ``ubp generate`` writes (``jobs/shop`` says how it works)."""

from datetime import date

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from conf.ranges import require_within
from conf.settings import WindowSettings

_FEWEST_DAYS = 3 * WindowSettings().target_days
_FEWEST_PRODUCTS_PER_CATEGORY = 3


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ShopSettings:
    """Sizes and rates of the shop; the defaults give a demo that trains in minutes."""

    n_clients: int = 3_000
    """Clients drawn; one without a single event appears nowhere."""
    n_days: int = 120
    first_day: date = date(2022, 6, 23)
    seed: int = 7
    n_categories: int = 40
    n_products: int = 800
    n_other_pages: int = 150
    """Pages that show neither a category nor a product."""
    queries_per_category: int = 8
    launched_share: float = 0.4
    """Share of products that come into the shop on a later day than the first."""
    relevant_share: float = 0.8
    """Share of clients to embed, chosen by a hash of the id."""
    sessions_per_day: float = 0.07
    """Median over clients; the rate is lognormal."""
    sessions_spread: float = 1.2
    """Standard deviation of the rate's logarithm: the weight of the tail."""
    clients_per_block: int = 500
    """Clients simulated together, the unit of randomness and of parallel work: another size is another shop."""

    def __post_init__(self) -> None:
        least = {
            "n_clients": 1,
            "n_days": _FEWEST_DAYS,
            "seed": 0,
            "n_categories": 2,
            "n_products": _FEWEST_PRODUCTS_PER_CATEGORY * self.n_categories,
            "n_other_pages": 1,
            "queries_per_category": 1,
            "launched_share": 0.0,
            "relevant_share": 0.0,
            "sessions_per_day": 0.0,
            "sessions_spread": 0.0,
            "clients_per_block": 1,
        }
        most = {"n_clients": 2**32, "launched_share": 1.0, "relevant_share": 1.0}
        require_within(self, "the shop", least, most)

    @property
    def n_blocks(self) -> int:
        """Blocks of clients; the last may be smaller."""
        return -(-self.n_clients // self.clients_per_block)
