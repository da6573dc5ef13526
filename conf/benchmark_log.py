"""The settings of the made crowd that ``ubp generate --events`` writes (``jobs/crowd`` says how it works)."""

from datetime import date, timedelta

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from conf.ranges import require_within
from conf.settings import WindowSettings


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class CrowdSettings:
    """Size and seed; all else follows from the challenge's published figures."""

    n_events: int = 170_000_000
    """Events of all behaviours; clients, products and pages are as many as it takes."""
    seed: int = 7
    n_days: int = 140
    last_day: date = date(2022, 11, 9)
    relevant_share: float = 0.0529
    """Share of clients to embed, chosen by a hash of the id (1,000,000 of 18.9 million in the *challenge*)."""
    clients_per_block: int = 50_000
    """Clients drawn together, the unit of randomness and of parallel work: another size is another crowd."""

    def __post_init__(self) -> None:
        least = {
            "n_events": 10_000,
            "seed": 0,
            "n_days": 3 * WindowSettings().target_days,
            "relevant_share": 0.0,
            "clients_per_block": 1,
        }
        most = {"n_events": 2_000_000_000, "n_days": 20_000, "relevant_share": 1.0, "clients_per_block": 10_000_000}
        require_within(self, "the crowd", least, most)

    @property
    def first_day(self) -> date:
        """The first of the ``n_days`` days."""
        return self.last_day - timedelta(days=self.n_days - 1)
