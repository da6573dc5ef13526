"""A network of a client's counters: binned numbers, low-rank crosses, and heads that read all layers before them.

The network of the challenge's fourth place. The crosses are DCN-v2's (Wang et al. 2021, arXiv:2008.13535), the heads'
layers DenseNet's (Huang et al. 2017).

Legend of shapes: B clients, F counters, D width of the crosses' input, R width of a client's vector.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conf.interactions import InteractionSettings


def fit_knots(numbers: NDArray[np.float32], n_bins: int) -> NDArray[np.float32]:
    """Lowest number, quantiles and highest number of each counter, float32 [F, n_bins + 1], rising.

    Parameters
    ----------
    numbers : float32 [N, F]; what is not finite is missing. A counter that nobody has gets zeros.
    """
    shares = np.linspace(0, 1, n_bins + 1)
    knots = np.zeros((numbers.shape[1], n_bins + 1), np.float32)
    for column, values in enumerate(numbers.T):
        known = values[np.isfinite(values)]
        if len(known):
            knots[column] = np.quantile(known, shares)
    return knots


class BinnedCounters(nn.Module):
    """A vector per counter and sub-bin; a number that is missing has one of its own.

    Parameters
    ----------
    knots : float32 [F, bins + 1]; of equal ones the last begins the bin, so that bins of no width stay empty. Numbers
        beyond the outer ones are in the outer sub-bins.
    """

    knots: Tensor

    def __init__(self, knots: Tensor, n_sub_bins: int, width: int) -> None:
        super().__init__()
        self.register_buffer("knots", knots)
        self.n_sub_bins, self.n_bins = n_sub_bins, knots.shape[1] - 1
        self.rows_per_counter = self.n_bins * n_sub_bins + 1
        self.vectors = nn.Parameter(self._rising(width))

    def _rising(self, width: int) -> Tensor:
        """At first, a counter's vectors lie on a line from its lowest sub-bin to its highest, float [rows, width].

        With few clients, most sub-bins are never met in training: they stay between their neighbours.
        """
        slope = torch.randn(len(self.knots), 1, width)
        line = torch.linspace(-1, 1, self.rows_per_counter - 1).unsqueeze(1)
        missing = torch.zeros(len(self.knots), 1, width)
        return torch.cat([slope * line, missing], dim=1).flatten(0, 1)

    def rows(self, numbers: Tensor) -> Tensor:
        """Row of each number's vector, int64 [B, F].

        Parameters
        ----------
        numbers : float32 [B, F]
        """
        # searchsorted would warn, and copy by itself
        values = numbers.T.contiguous()  # [F, B]
        # clamped: numbers beyond the outer knots, and what is not finite, get an outer bin here
        bins = (torch.searchsorted(self.knots, values, right=True) - 1).clamp(0, self.n_bins - 1)
        low, high = self.knots.gather(1, bins), self.knots.gather(1, bins + 1)
        share = torch.where(high > low, (values - low) / (high - low), 0.0)
        is_known = values.isfinite()
        sub_bins = (torch.where(is_known, share, 0.0) * self.n_sub_bins).long().clamp(0, self.n_sub_bins - 1)
        rows = torch.where(is_known, bins * self.n_sub_bins + sub_bins, self.rows_per_counter - 1)
        first = torch.arange(len(self.knots), device=rows.device).unsqueeze(1) * self.rows_per_counter
        return (rows + first).T

    def forward(self, numbers: Tensor) -> Tensor:
        """Float [B, F * width]."""
        return nn.functional.embedding(self.rows(numbers), self.vectors).flatten(1)


class Crosses(nn.Module):
    """Low-rank crosses x' = x0 * (U V^T x + b) + x, and what they project on: the concatenated V^T x.

    The last cross is its projection alone: nothing reads what it would make of it.
    """

    def __init__(self, width: int, ranks: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for rank in ranks)
        self.up = nn.ModuleList(nn.Linear(rank, width) for rank in ranks[:-1])

    def forward(self, first: Tensor) -> Tensor:
        """Float [B, R] of float [B, D]."""
        x, projections = first, []
        for down, up in zip(self.down[:-1], self.up, strict=True):
            projections.append(down(x))
            x = first * up(projections[-1]) + x
        return torch.cat([*projections, self.down[-1](x)], dim=1)


class InteractionNetwork(nn.Module):
    """Counters -> a client's vector -> logits of what it does next.

    Parameters
    ----------
    knots : as ``fit_knots`` gives them
    n_labels : of all heads together
    """

    def __init__(self, knots: Tensor, n_labels: int, settings: InteractionSettings) -> None:
        super().__init__()
        self.counters = BinnedCounters(knots, settings.n_sub_bins, settings.bin_width)
        self.dropout = nn.Dropout(settings.dropout)
        self.crosses = Crosses(len(knots) * settings.bin_width, settings.ranks)
        self.head = nn.Linear(sum(settings.ranks), settings.head_width)
        widths = [
            settings.head_width + sum(settings.dense_widths[:number]) for number in range(len(settings.dense_widths))
        ]
        self.dense = nn.ModuleList(nn.Linear(*sizes) for sizes in zip(widths, settings.dense_widths, strict=True))
        self.output = nn.Linear(settings.head_width + sum(settings.dense_widths), n_labels)

    def forward(self, numbers: Tensor) -> Tensor:
        """A vector per client, float [B, R]; of float32 [B, F], NaN where a counter is missing."""
        vectors: Tensor = self.crosses(self.dropout(self.counters(numbers)))
        return vectors

    def logits(self, vectors: Tensor) -> Tensor:
        """Float [B, labels]."""
        x = self.head(vectors).relu()
        for layer in self.dense:
            x = torch.cat([x, layer(x).relu()], dim=1)
        logits: Tensor = self.output(x)
        return logits
