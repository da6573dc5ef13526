"""One profile per client from blocks of vectors: those of encoders, counters, and others.

Legend of shapes: n clients, d columns of a block, k columns that it becomes in the profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conf.profile import EnsembleSettings
from ml.profiles.moments import Moments
from schemas.blocks import ACTIVITY
from schemas.errors import ConfigError

FLOAT32_STEP = float(np.finfo(np.float32).eps)
"""A column whose standard deviation is at most this share of its mean is a constant with rounding errors."""


@dataclass(frozen=True)
class BlockRows:
    """Some clients' rows of one block.

    Attributes
    ----------
    vectors : float [n, d]; what stands in an absent client's row means nothing
    is_present : bool [n], whether the client has the block
    """

    name: str
    vectors: NDArray[np.floating]
    is_present: NDArray[np.bool_]


@dataclass(frozen=True)
class BlockTransform:
    """What is done to a block's vectors before they stand in the profile; fitted on the clients that have one.

    Attributes
    ----------
    fill : float64 [d], the vector of absent clients
    center : float64 [d], what is taken away
    scale : float64 [d], what the rest is divided by
    axes : float64 [d, k], directions to project on after that; None to keep the columns
    """

    fill: NDArray[np.float64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[np.float64] | None = None

    @property
    def width(self) -> int:
        """Columns of the profile, k."""
        return len(self.center) if self.axes is None else self.axes.shape[1]

    def apply(self, block: BlockRows) -> NDArray[np.float32]:
        """The block as it stands in the profile, float32 [n, k]."""
        vectors = np.where(block.is_present[:, None], block.vectors, self.fill)
        standard = ((vectors - self.center) / self.scale).astype(np.float32)
        return standard if self.axes is None else standard @ self.axes.astype(np.float32)


@dataclass(frozen=True)
class Composition:
    """How blocks become profiles.

    Attributes
    ----------
    transforms : block -> what is done to it, in the profile's order
    averaged : encoders' blocks of one width that become one, their mean over those that a client has; it comes first
    has_flags : whether one column per block says who has it
    """

    transforms: Mapping[str, BlockTransform]
    averaged: tuple[str, ...]
    has_flags: bool

    @property
    def width(self) -> int:
        """Numbers in one profile."""
        widths = [transform.width for name, transform in self.transforms.items() if name not in self.averaged[1:]]
        return sum(widths) + len(self.transforms) * self.has_flags

    def compose(self, blocks: Sequence[BlockRows]) -> NDArray[np.float32]:
        """The profiles of the blocks' clients, float32 [n, ``width``]; flags come last, 1 for a block one has."""
        parts = [self.transforms[block.name].apply(block) for block in blocks if block.name not in self.averaged]
        if self.averaged:
            parts.insert(0, self._mean([block for block in blocks if block.name in self.averaged]))
        flags = [block.is_present[:, None].astype(np.float32) for block in blocks if self.has_flags]
        return np.concatenate([*parts, *flags], axis=1)

    def _mean(self, blocks: Sequence[BlockRows]) -> NDArray[np.float32]:
        is_present = np.stack([block.is_present for block in blocks])[..., None]  # [blocks, n, 1]
        vectors = np.stack([self.transforms[block.name].apply(block) for block in blocks])  # [blocks, n, k]
        total = vectors.sum(axis=0, where=is_present)
        # a client without any of the blocks gets zeros, not a division by none
        return total / np.maximum(1, is_present.sum(axis=0)).astype(np.float32)


def prepare_vectors(name: str, vectors: NDArray[np.float32], settings: EnsembleSettings) -> NDArray[np.float32]:
    """A block's vectors as moments and compositions take them: of the further blocks sign(x) log(1 + |x|), if asked."""
    if name in settings.named_blocks and settings.log_blocks:
        return np.copysign(np.log1p(np.abs(vectors)), vectors)
    return vectors


def fit_composition(moments: Mapping[str, Moments], settings: EnsembleSettings) -> Composition:
    """What the settings ask for, fitted to the moments of each block's present clients.

    Where the columns would be more than ``settings.max_width``, all blocks are projected on their principal axes, of
    which those with the largest variances are kept: the principal axes of all blocks with what lies between blocks
    left out.

    Raises
    ------
    ConfigError
        If encoders of unequal widths are to be averaged, or a mean or a flag leaves no room for the rest.
    """
    further = settings.named_blocks
    transforms = {name: _fit_block(of_block, settings, name in further) for name, of_block in moments.items()}
    is_mean = settings.composition == "mean"
    averaged = tuple(name for name in moments if is_mean and name not in (*further, ACTIVITY))
    if len(widths := {transforms[name].width for name in averaged}) > 1:
        raise ConfigError(f"ensemble.composition=mean needs encoders of one width, found {sorted(widths)}; use concat")
    whole = Composition(transforms, averaged, settings.presence_flags)
    if whole.width <= settings.max_width:
        return whole
    room = settings.max_width - len(moments) * settings.presence_flags
    if averaged or room < 1:
        raise ConfigError(
            f"a profile has {whole.width} columns, flags included, and principal axes cannot bring it down to "
            f"ensemble.max_width={settings.max_width}: raise it, or use ensemble.composition=concat"
        )
    return replace(whole, transforms=_reduce(transforms, moments, room))


def _fit_block(moments: Moments, settings: EnsembleSettings, is_further: bool) -> BlockTransform:
    scaling = settings.blocks_scaling if is_further else settings.scaling
    nothing, ones = np.zeros_like(moments.mean), np.ones_like(moments.mean)
    center, scale = nothing, ones
    if scaling != "none":
        variances = np.diag(moments.covariance)
        deviations = np.sqrt(ones * variances.mean() if scaling == "block" else variances)
        # a constant column: to divide rounding errors by their own size would make noise of it
        is_constant = deviations <= FLOAT32_STEP * np.abs(moments.mean)
        center, scale = moments.mean, np.where(is_constant, 1.0, deviations)
    if is_further:
        scale = scale / settings.blocks_weight
    return BlockTransform(moments.mean if settings.absent == "mean" else nothing, center, scale)


def _reduce(
    transforms: Mapping[str, BlockTransform], moments: Mapping[str, Moments], n_columns: int
) -> dict[str, BlockTransform]:
    """The transforms with the axes of largest variance, so many over all blocks; ties go to the earlier block."""
    found = {
        name: np.linalg.eigh(moments[name].covariance / np.outer(transform.scale, transform.scale))
        for name, transform in transforms.items()
    }
    variances = np.concatenate([values[::-1] for values, _ in found.values()])  # eigh gives the smallest first
    owners = np.repeat(np.arange(len(found)), [len(values) for values, _ in found.values()])
    kept = np.bincount(owners[np.argsort(-variances, kind="stable")[:n_columns]], minlength=len(found))
    reduced = {}
    for (name, transform), n_axes in zip(transforms.items(), kept, strict=True):
        axes = found[name][1][:, ::-1][:, :n_axes]
        # an axis turned round is an axis too: with the largest component positive, every LAPACK gives the same
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(n_axes)]
        axes = axes * np.where(largest < 0, -1.0, 1.0)
        reduced[name] = replace(transform, center=moments[name].mean, axes=axes)
    return reduced
