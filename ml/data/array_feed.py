"""Batches of one rank from sequences in memory, for benchmarks, notebooks, and machines with torch and numpy alone."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ml.data.batching import cut, rows_per_batch
from ml.data.sequence_batch import Batches, Sequences
from ml.data.sharding import width_schedule
from schemas.errors import TrainingError


class ArrayFeed:
    """A feed (``ml.data.sequence_batch.Feed``) in which every epoch is a new permutation of all rows.

    Parameters
    ----------
    training, validation : of all ranks
    widths : rising; a row goes to the smallest that holds it, one longer than the widest keeps its last tokens
    tokens_per_batch : positions of a batch, padding included

    Raises
    ------
    TrainingError
        If no training row has an item to predict and another token to predict it from.
    """

    def __init__(
        self,
        training: Sequences,
        validation: Sequences,
        widths: Sequence[int],
        tokens_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        # before rows without anything to learn are left out: what is read of a row must hold an item
        training, validation = training.last(widths[-1]), validation.last(widths[-1])
        self._training, self._validation = training, validation
        self._training_rows = _rows_by_width(training, widths)
        self._validation_rows = _rows_by_width(validation, widths)
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._n_rows = {width: rows_per_batch(tokens_per_batch, width) for width in widths}
        # a rank's rows are as many as any other's (_shuffled_share), so that all take as many steps
        self._steps = {
            width: ceil(ceil(len(rows) / world_size) / self._n_rows[width])
            for width, rows in self._training_rows.items()
        }
        if not self._training_rows:
            raise TrainingError(
                f"none of {len(training)} training sequences holds two tokens, one of them an item; give others, or "
                "token ids from a vocabulary that knows more of their items"
            )
        self.n_batches = sum(self._steps.values())
        self.length_counts = np.zeros(widths[-1] + 1)
        for rows in self._training_rows.values():
            counts = np.bincount(training.lengths[rows], minlength=len(self.length_counts))
            # each epoch deals the rows out anew, so that of a rank's own only the mean is known
            self.length_counts += counts * (ceil(len(rows) / world_size) / len(rows))

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of an epoch, but for the first ``skip``; of these no row is touched."""
        batches = {
            width: cut(self._shuffled_share(rows, (self._seed, epoch, width)), self._n_rows[width])
            for width, rows in self._training_rows.items()
        }
        schedule = width_schedule(self._steps, self._seed, epoch)
        for number, width in enumerate(schedule.tolist()):
            rows = next(batches[width])
            if number >= skip:
                yield self._training.batch(rows, width)

    def validation(self) -> Batches:
        """Every row of the rank's share once, in rising width."""
        for width, rows in self._validation_rows.items():
            for batch in cut(rows[self._rank :: self._world_size], self._n_rows[width]):
                yield self._validation.batch(batch, width)

    def _shuffled_share(self, rows: NDArray[np.int64], seed: tuple[int, ...]) -> NDArray[np.int64]:
        """Each ``world_size``-th row of a permutation that all ranks draw alike; as many rows on every rank."""
        # past the end the first rows come again: ranks need equal numbers of steps
        numbers = np.arange(ceil(len(rows) / self._world_size)) * self._world_size + self._rank
        return np.random.default_rng(seed).permutation(rows)[numbers % len(rows)]


def _rows_by_width(sequences: Sequences, widths: Sequence[int]) -> dict[int, NDArray[np.int64]]:
    """Width -> the numbers of its learnable rows, in rising width; only widths that have one.

    Parameters
    ----------
    sequences : none longer than the widest
    """
    is_learnable = sequences.is_learnable
    numbers = np.searchsorted(widths, sequences.lengths)  # of the smallest width that is no less
    rows = {width: np.flatnonzero(is_learnable & (numbers == number)) for number, width in enumerate(widths)}
    return {width: own for width, own in rows.items() if len(own)}
