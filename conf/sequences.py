"""Settings of the sequences that encoders read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from conf.inputs import BehaviourSettings
from conf.ranges import PositiveInt, Settings, Share, require


@dataclass(frozen=True)
class SequenceSettings(Settings):
    """How ``tables/sequences`` is laid out for the feed."""

    widths: tuple[PositiveInt, ...] = (1, 4, 8, 16, 32, 64, 128, 256)
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
        # 1, for rows of one token: with files of their own they are never read, for they have no context to learn from
        rising = list(self.widths) == sorted(set(self.widths)) and self.widths[:1] == (1,)
        require(rising, f"sequences.widths must start with 1 and rise; found {list(self.widths)}")


@dataclass(frozen=True)
class Stream:
    """The sequences that an encoder reads, or several encoders of one behaviour.

    Attributes
    ----------
    name : the behaviour's; of several merged behaviours the encoder's
    behaviours : whose events it holds; an event's type is 1 + the position of its behaviour here
    max_length : the most recent events kept of a client
    chunk_length : the most that is read at once
    has_events : whether it holds event types and times beside token ids
    drops_repeats : whether of events that differ in nothing one is kept
    """

    name: str
    behaviours: tuple[str, ...]
    max_length: int
    chunk_length: int
    has_events: bool = False
    drops_repeats: bool = False

    @property
    def is_merged(self) -> bool:
        """Whether it has a vocabulary of its own, of several behaviours."""
        return len(self.behaviours) > 1

    def own_settings(self) -> dict[str, object]:
        """What is not as in the plain sequences of one behaviour, by the names of the attributes."""
        # recorded with the table: what is as in plain sequences is left out, so that no older table is outdated by it
        if not self.is_merged:
            return {"has_events": True} if self.has_events else {}
        return {name: getattr(self, name) for name in ("behaviours", "chunk_length", "has_events", "drops_repeats")}

    def shares_item(self, behaviour: str, behaviours: Mapping[str, BehaviourSettings]) -> bool:
        """Whether another of its behaviours has items of the same name."""
        items = [behaviours[name].item for name in self.behaviours]
        return items.count(behaviours[behaviour].item) > 1

    def layout(self, settings: SequenceSettings) -> SequenceSettings:
        """The settings with the widths of this stream.

        Above a chunk these are its multiples, so that a width says how many chunks a row is cut into.
        """
        if self.max_length <= self.chunk_length:
            return settings
        chunks = range(self.chunk_length, self.max_length + 1, self.chunk_length)
        within = (width for width in settings.widths if width < self.chunk_length)
        # a set in order: 1 comes twice where a chunk is one event
        return replace(settings, widths=tuple(dict.fromkeys((1, *within, *chunks))))
