"""Settings of blocks that are counted, and of the profile that blocks become."""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from conf.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Settings, require

MAX_WIDTH = 2048
"""Most columns of a profile (*challenge*)."""


Scaling = Literal["none", "block", "column", "row"]


@dataclass(frozen=True)
class BlockSettings(Settings):
    """How one block stands in a profile; what is None is as the settings of all blocks say.

    In this order: transform, what stands for absent clients, fewer columns, scaling, weight.
    """

    transform: Literal["none", "log", "quantile"] | None = None
    """``log``: sign(x) log(1 + |x|). ``quantile``: the share of present clients with less, 0 to 1, by column."""
    max_columns: PositiveInt | None = None
    """Make the columns so many at most; None keeps them."""
    scaling: Scaling | None = None
    """See ``EnsembleSettings.scaling``."""
    absent: Literal["zeros", "mean"] | None = None
    presence: bool | None = None
    """Append one number, 1 where the client has the block."""
    weight: PositiveFloat | None = None
    reduction: Literal["axes", "dense", "autoencoder"] = "axes"
    """How columns become fewer: by the principal axes of the largest variance, or by a network of one layer or of two
    that is trained to give the columns back (*paper*, where both failed)."""

    def __post_init__(self) -> None:
        require(
            self.reduction == "axes" or self.max_columns is not None,
            f"ensemble.stacking: reduction={self.reduction} expected max_columns, the number of columns that it is to "
            "make; found none",
        )


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """How blocks of vectors, one per encoder and others, become one profile."""

    composition: Literal["concat", "mean"] = "concat"
    """``mean`` is over the encoders' blocks that a client has; ``activity`` and further blocks stand beside it."""
    scaling: Scaling = "none"
    """Of the encoders' blocks and ``activity``. ``block``: take away each column's mean, divide by the block's standard
    deviation; ``column``: by each column's own. Means and deviations are of the clients that have the block. ``row``:
    divide each client's vector by its length."""
    weight: PositiveFloat = 1.0
    """Multiplies the same blocks' numbers after that: with ``row``, the length of each client's vector."""
    absent: Literal["zeros", "mean"] = "zeros"
    """What stands for a block that a client lacks, before scaling: zeros (*paper*) or the block's mean."""
    presence_flags: bool = True
    """Append one number per block, 1 where the client has it."""
    constant: NonNegativeFloat = 0.0
    """Append a column of this number, the same for all clients; 0 appends none. The probe divides what its first layer
    makes of a profile by the spread of that: beside a large constant it learns in smaller steps, and sees how long a
    client's vectors are and not their directions alone."""
    max_width: Annotated[int, Range(gt=0, le=MAX_WIDTH)] = MAX_WIDTH
    """Most columns of a profile (*challenge*); above it, blocks are projected on their principal axes."""
    activity: bool = False
    """Make the block ``activity`` a part of ``ensemble``: of each behaviour log(1 + n) of the client's events, and of
    those of its last ``activity_days``: how many there were, and how recent, which no mean of token vectors tells."""
    activity_days: tuple[PositiveInt, ...] = (7, 14, 28, 90)
    """Lengths of the windows that end at the cutoff."""
    blocks: tuple[str, ...] = ()
    """Further blocks, as ``NAME``, a block of the run, or ``NAME=DIR``, an entry that becomes one, in which all clients
    count as present: with any, the stage ``profile`` also makes ``ensemble+NAME``."""
    blocks_scaling: Scaling = "column"
    """As ``scaling``, of the further blocks."""
    blocks_weight: PositiveFloat = 1.0
    """Multiplies the further blocks' numbers after that: the wider a column's values spread, the more a probe sees of
    it, and hundreds of them drown what else a profile holds."""
    log_blocks: bool = True
    """Take sign(x) log(1 + |x|) of the further blocks' numbers first: counts have heavy tails."""
    stacking: dict[str, BlockSettings] = field(default_factory=dict)
    """Block -> what differs for it from the settings above."""

    def __post_init__(self) -> None:
        # a name becomes a folder of ``entries``, a partition of a table, and a literal in SQL
        named = [re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII) is not None for name in self.named_blocks]
        require(
            # a name that is given twice stands in named_blocks once
            all(named) and len(named) == len(self.blocks),
            "ensemble.blocks must be NAME or NAME=DIR, each name once, of letters, digits, _, . and -; "
            f"found {list(self.blocks)}",
        )

    def of_block(self, name: str) -> BlockSettings:
        """The settings of one block, none of them None but ``max_columns``."""
        is_further = name in self.named_blocks
        common = BlockSettings(
            transform="log" if is_further and self.log_blocks else "none",
            scaling=self.blocks_scaling if is_further else self.scaling,
            absent=self.absent,
            presence=self.presence_flags,
            weight=self.blocks_weight if is_further else self.weight,
        )
        own = self.stacking.get(name, common)
        return replace(common, **{key: value for key, value in vars(own).items() if value is not None})

    @property
    def named_blocks(self) -> dict[str, str]:
        """Name of each of ``blocks`` -> the folder of its entry, empty for a block of the run."""
        return {name: folder for name, _, folder in (block.partition("=") for block in self.blocks)}
