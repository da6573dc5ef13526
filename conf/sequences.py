"""Settings of the sequences that encoders read."""

from dataclasses import dataclass

from conf.ranges import PositiveInt, Settings, Share, require


@dataclass(frozen=True)
class SequenceSettings(Settings):
    """How ``tables/sequences`` is laid out for the feed."""

    widths: tuple[PositiveInt, ...] = (1, 4, 8, 16, 32, 64, 128)
    """Batch widths; a sequence goes to the smallest that holds it. Rows of width 1 are not trained on."""
    held_out_share: Share = 0.01
    """Share of clients, chosen by a hash of id and seed, whose last item is kept for validation."""
    rows_per_file: PositiveInt = 200_000
    """Rows of one file, the unit that is dealt out to ranks."""
    row_group_mib: PositiveInt = 4
    """Size of a row group (stored, compressed), the unit that a rank decodes and shuffles: small ones cost little."""
    broadcast_max_mib: PositiveInt = 256
    """Vocabularies up to this size in memory go to every executor; events are shuffled by item to larger ones."""

    def __post_init__(self) -> None:
        rising = list(self.widths) == sorted(set(self.widths)) and self.widths[:1] == (1,)
        require(rising, f"sequences.widths must start with 1 and rise; found {list(self.widths)}")
