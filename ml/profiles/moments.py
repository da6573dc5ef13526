"""Means and covariances in one pass, in parts that may be merged in any order. Needs numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EntryError


@dataclass(frozen=True)
class Moments:
    """What standardising and PCA need to know about some rows of d columns.

    Products are of deviations from these rows' own mean, so that nothing is lost where the mean is large against the
    spread: sums of squares would lose it.

    Attributes
    ----------
    n_rows : rows seen
    mean : float64 [d], zeros where none was seen
    products : float64 [d, d], sums of products of deviations from ``mean``
    """

    n_rows: int
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> "Moments":
        """The moments of float [n, d]; EntryError if a number is not finite."""
        rows = vectors.astype(np.float64)
        n_bad = int((~np.isfinite(rows)).sum())
        if n_bad:
            raise EntryError(
                f"expected finite numbers in a block, found {n_bad} that are not; look at the training loss"
            )
        mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
        deviations: NDArray[np.float64] = rows - mean
        return cls(len(rows), mean, np.dot(deviations.T, deviations))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows (Chan, Golub and LeVeque 1983, equation 1.5)."""
        n_rows = self.n_rows + other.n_rows
        if n_rows == 0:
            return self
        share = other.n_rows / n_rows
        shift = other.mean - self.mean
        products = self.products + other.products + np.outer(shift, shift) * (self.n_rows * share)
        return Moments(n_rows, self.mean + shift * share, products)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Float64 [d, d], of the rows seen (divided by n, not n - 1)."""
        return self.products / max(1, self.n_rows)
