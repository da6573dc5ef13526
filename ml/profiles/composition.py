"""One profile per client from blocks of vectors: those of encoders, counters, and others.

Legend of shapes: n clients, d columns of a block, k columns that it becomes in the profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conf.profile import BlockSettings, EnsembleSettings
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
class Network:
    """Makes a block's d columns fewer: the trained half (``ml/profiles/compression.py``), in numpy.

    Spark's Python workers apply it, and would load torch for seconds.

    Attributes
    ----------
    weights, biases : of each layer, float32 [inputs, outputs] and [outputs]; a ReLU stands between two
    is_rectified : one stands after the last too
    center, scale : float32 [k], of the last layer's outputs over the clients that the network was trained on
    """

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    is_rectified: bool
    center: NDArray[np.float32]
    scale: NDArray[np.float32]

    def apply(self, standard: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardised columns, float32 [n, d], as fewer, which are standardised too, float32 [n, k]."""
        columns = standard
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            columns = columns @ weight + bias
            if self.is_rectified or layer < len(self.weights):
                columns = np.maximum(columns, 0)
        return (columns - self.center) / self.scale


@dataclass(frozen=True)
class BlockTransform:
    """What is done to a block's vectors before they stand in the profile; fitted on the clients that have one.

    Attributes
    ----------
    fill : float64 [d], the vector of absent clients
    center : float64 [d], what is taken away
    scale : float64 [d], what the rest is divided by
    axes : float64 [d, k], directions to project on after that; None to keep the columns
    network : makes the columns fewer instead, by other means
    row_length : the length that each client's vector gets in the end; None to keep it
    """

    fill: NDArray[np.float64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[np.float64] | None = None
    network: Network | None = None
    row_length: float | None = None

    @property
    def width(self) -> int:
        """Columns of the profile, k."""
        if self.network is not None:
            return len(self.network.center)
        return len(self.center) if self.axes is None else self.axes.shape[1]

    def apply(self, block: BlockRows) -> NDArray[np.float32]:
        """The block as it stands in the profile, float32 [n, k]."""
        vectors = np.where(block.is_present[:, None], block.vectors, self.fill)
        # taken away in float64: where a column's mean is large against its spread, float32 would lose the spread
        standard = ((vectors - self.center) / self.scale).astype(np.float32)
        projected = standard if self.axes is None else standard @ self.axes.astype(np.float32)
        if self.network is not None:
            projected = self.network.apply(standard)
        if self.row_length is None:
            return projected
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        # the vector of an absent client may be all zeros, and has no direction
        return projected * (np.float32(self.row_length) / np.where(length > 0, length, 1))


@dataclass(frozen=True)
class Composition:
    """How blocks become profiles.

    Attributes
    ----------
    transforms : block -> what is done to it, in the profile's order
    averaged : encoders' blocks of one width that become one, their mean over those that a client has; it comes first
    flagged : blocks of which a column says who has it
    constant : stands in a column of its own, the last, unless it is 0
    """

    transforms: Mapping[str, BlockTransform]
    averaged: tuple[str, ...]
    flagged: tuple[str, ...]
    constant: float = 0.0

    @property
    def width(self) -> int:
        """Numbers in one profile."""
        # the averaged blocks take the columns of one
        widths = [transform.width for name, transform in self.transforms.items() if name not in self.averaged[1:]]
        return sum(widths) + self.n_further

    @property
    def n_further(self) -> int:
        """Columns that are of no block's vectors: flags and the constant."""
        return len(self.flagged) + (self.constant > 0)

    def compose(self, blocks: Sequence[BlockRows]) -> NDArray[np.float32]:
        """The profiles of the blocks' clients, float32 [n, ``width``].

        After the vectors come the flags, 1 for a block that a client has, then the constant.
        """
        parts = [self.transforms[block.name].apply(block) for block in blocks if block.name not in self.averaged]
        if self.averaged:
            parts.insert(0, self._mean([block for block in blocks if block.name in self.averaged]))
        flags = [block.is_present[:, None].astype(np.float32) for block in blocks if block.name in self.flagged]
        constant = np.full((len(parts[0]), int(self.constant > 0)), self.constant, np.float32)
        return np.concatenate([*parts, *flags, constant], axis=1)

    def _mean(self, blocks: Sequence[BlockRows]) -> NDArray[np.float32]:
        is_present = np.stack([block.is_present for block in blocks])[..., None]  # [blocks, n, 1]
        vectors = np.stack([self.transforms[block.name].apply(block) for block in blocks])  # [blocks, n, k]
        total = vectors.sum(axis=0, where=is_present)
        # a client without any of the blocks gets zeros, not a division by none
        return total / np.maximum(1, is_present.sum(axis=0)).astype(np.float32)


def prepare_vectors(
    name: str,
    vectors: NDArray[np.float32],
    settings: EnsembleSettings,
    quantiles: Mapping[str, NDArray[np.float64]] | None = None,
) -> NDArray[np.float32]:
    """A block's vectors as moments and compositions take them: after its transform.

    Parameters
    ----------
    quantiles : block -> [d, q], the values of each column at shares from 0 to 1; of those whose transform needs them
    """
    transform = settings.of_block(name).transform
    if transform == "log":
        return np.copysign(np.log1p(np.abs(vectors)), vectors)
    if transform == "quantile":
        assert quantiles is not None, "fitted before"
        return np.stack([to_share(own, of) for own, of in zip(vectors.T, quantiles[name], strict=True)], axis=1)
    return vectors


def to_share(values: NDArray[np.float32], quantiles: NDArray[np.float64]) -> NDArray[np.float32]:
    """The share of a column's values that lie below each number, 0 to 1; equal ones count half.

    Parameters
    ----------
    values : float32 [n]; what is not finite stays so
    quantiles : float64 [q], never falling, at shares from 0 to 1
    """
    shares = np.linspace(0.0, 1.0, len(quantiles))
    # where many values are equal, interpolation from the left and from the right end at the two ends of their range
    left, right = np.interp(values, quantiles, shares), 1 - np.interp(-values, -quantiles[::-1], shares)
    found: NDArray[np.float32] = np.where(np.isfinite(values), (left + right) / 2, np.nan).astype(np.float32)
    return found


def fit_composition(
    moments: Mapping[str, Moments], settings: EnsembleSettings, networks: Mapping[str, Network] | None = None
) -> Composition:
    """What the settings ask for, fitted to the moments of each block's present clients.

    Where the columns would be more than ``settings.max_width``, all blocks are projected on their principal axes, of
    which those with the largest variances are kept: the principal axes of all blocks with what lies between blocks
    left out.

    Parameters
    ----------
    networks : block -> fitted to its columns, standardised by ``standardising``; of those whose settings ask for one

    Raises
    ------
    ConfigError
        If encoders of unequal widths are to be averaged, or a mean, a flag or a network leaves no room for the rest.
    """
    networks = networks or {}
    transforms = {
        name: _fit_block(of_block, settings.of_block(name), networks.get(name)) for name, of_block in moments.items()
    }
    is_mean = settings.composition == "mean"
    averaged = tuple(name for name in moments if is_mean and name not in (*settings.named_blocks, ACTIVITY))
    flagged = tuple(name for name in moments if settings.of_block(name).presence)
    if len(widths := {transforms[name].width for name in averaged}) > 1:
        raise ConfigError(f"ensemble.composition=mean needs encoders of one width, found {sorted(widths)}; use concat")
    whole = Composition(transforms, averaged, flagged, settings.constant)
    if whole.width <= settings.max_width:
        return whole
    room = settings.max_width - whole.n_further
    if averaged or room < 1 or networks.keys() & moments.keys():
        raise ConfigError(
            f"a profile has {whole.width} columns, flags included, and principal axes cannot bring it down to "
            f"ensemble.max_width={settings.max_width}: raise it, or use ensemble.composition=concat and reduction=axes"
        )
    return replace(whole, transforms=_reduce(transforms, moments, room))


def standardising(moments: Moments) -> BlockTransform:
    """Columns of mean 0 and deviation 1, but for constant ones, which become 0; the absent get the mean."""
    deviations = np.sqrt(np.diag(moments.covariance))
    # to divide rounding errors by their own size would make noise of a constant
    is_constant = deviations <= FLOAT32_STEP * np.abs(moments.mean)
    return BlockTransform(moments.mean, moments.mean, np.where(is_constant, 1.0, deviations))


def _fit_block(moments: Moments, settings: BlockSettings, network: Network | None) -> BlockTransform:
    assert settings.weight is not None, "resolved by EnsembleSettings.of_block"
    # without scaling a block is left as it is, by the same arithmetic
    nothing, ones = np.zeros_like(moments.mean), np.ones_like(moments.mean)
    fill = moments.mean if settings.absent == "mean" else nothing
    row_length = settings.weight if settings.scaling == "row" else None
    if network is not None:
        weighted = network if row_length else replace(network, scale=network.scale / np.float32(settings.weight))
        return replace(standardising(moments), fill=fill, network=weighted, row_length=row_length)
    center, scale = nothing, ones
    if settings.scaling == "row":
        # of no effect on the result but on which axes are kept, should all blocks be projected
        scale = ones * max(FLOAT32_STEP, np.sqrt(np.trace(moments.covariance) + np.square(moments.mean).sum()))
    elif settings.scaling == "column":
        center, scale = moments.mean, standardising(moments).scale
    elif settings.scaling == "block":
        deviation = np.sqrt(np.diag(moments.covariance).mean())
        center = moments.mean
        scale = np.where(deviation <= FLOAT32_STEP * np.abs(moments.mean), 1.0, deviation)
    fitted = BlockTransform(fill, center, scale / settings.weight, row_length=row_length)
    if settings.max_columns is None or settings.max_columns >= len(center):
        return fitted
    _, axes = _principal_axes(fitted, moments)
    return replace(fitted, center=moments.mean, axes=axes[:, : settings.max_columns])


def _principal_axes(transform: BlockTransform, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances [d] and directions [d, d] of a block's scaled columns, largest variance first."""
    variances, axes = np.linalg.eigh(moments.covariance / np.outer(transform.scale, transform.scale))
    # an axis turned round is an axis too: with the largest component positive, every LAPACK gives the same
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(len(variances))]
    return variances[::-1], (axes * np.where(largest < 0, -1.0, 1.0))[:, ::-1]


def _reduce(
    transforms: Mapping[str, BlockTransform], moments: Mapping[str, Moments], n_columns: int
) -> dict[str, BlockTransform]:
    """The transforms with the axes of largest variance, so many over all blocks; ties go to the earlier block."""
    found = {name: _principal_axes(transform, moments[name]) for name, transform in transforms.items()}
    # a block that is projected already has its own number of axes at most
    variances = [found[name][0][: transform.width] for name, transform in transforms.items()]
    owners = np.repeat(np.arange(len(found)), [len(values) for values in variances])
    chosen = np.argsort(-np.concatenate(variances), kind="stable")[:n_columns]
    kept = np.bincount(owners[chosen], minlength=len(found))
    return {
        name: replace(transform, center=moments[name].mean, axes=found[name][1][:, :n_axes])
        for (name, transform), n_axes in zip(transforms.items(), kept, strict=True)
    }
