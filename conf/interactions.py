"""Settings of the block ``interactions``."""

from dataclasses import dataclass
from typing import Annotated

from conf.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Settings, Share, require


@dataclass(frozen=True)
class InteractionSettings(Settings):
    """A network of crosses of counters (DCN-v2, Wang et al. 2021), as the challenge's fourth place built one.

    Marked sizes are that team's; ``conf/fourth_place.yaml`` has all of theirs. Bins and training are those that did
    best on simulated shops of ten thousand clients (docs/profile_scores.md).
    """

    windows_before: tuple[Annotated[int, Range(gt=0, le=100)], ...] = (1, 2, 3)
    """Earlier cutoffs: so many times ``windows.target_days`` before the profile's own. Training rows count events
    before each of them; their labels are of the ``windows.target_days`` after it, which end by the profile's cutoff."""
    max_clients: PositiveInt = 200_000
    """Clients that give training rows, chosen by a hash; each gives one per earlier cutoff."""
    min_buyers: PositiveInt = 100
    """Training rows with a purchase; with fewer the block is left out."""
    n_bins: PositiveInt = 17
    """Bins of a counter, between its quantiles."""
    n_sub_bins: PositiveInt = 8
    """Parts of equal width of each bin."""
    bin_width: PositiveInt = 2
    """Numbers of a sub-bin's vector (*fourth place*)."""
    ranks: tuple[PositiveInt, ...] = (64, 32, 32)
    """Of the crosses; their sum is the block's width (*fourth place*)."""
    head_width: PositiveInt = 256
    """What the heads make of a client's vector first (*fourth place*)."""
    dense_widths: tuple[PositiveInt, ...] = (64, 64, 64, 64)
    """Of layers that each read all before them (*fourth place*)."""
    mask_share: Share = 0.3
    """Of the events that each of two views of a client lacks (*fourth place*)."""
    view_weight: NonNegativeFloat = 0.0
    """Of telling a client's two views from those of others, beside the labels; 0 leaves the views out."""
    temperature: PositiveFloat = 0.1
    dropout: Share = 0.5
    """Of the crosses' input."""
    epochs: PositiveInt = 6
    batch_size: PositiveInt = 512
    """Rows of a step on one rank."""
    learning_rate: PositiveFloat = 5e-4
    weight_decay: NonNegativeFloat = 0.1
    """On matrices; never on the vectors of sub-bins."""

    def __post_init__(self) -> None:
        for name in ("windows_before", "ranks", "dense_widths"):
            require(len(getattr(self, name)) > 0, f"interactions.{name}: expected at least one number, found none")
        require(
            len(set(self.windows_before)) == len(self.windows_before),
            f"interactions.windows_before: expected each cutoff once, found {list(self.windows_before)}",
        )

    @property
    def n_views(self) -> int:
        """By all events of a client, and by two parts of them where ``view_weight`` asks for these."""
        return 3 if self.view_weight else 1
