"""What every side of ``train_vs_peers.py`` is given, and the clock that it is measured by (numpy and torch only)."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """One model on one set of sequences; the numbers are equal on all sides.

    Attributes
    ----------
    n_items : items are 1 to ``n_items`` in the sequences
    max_length : of a sequence; longer ones keep their last items
    warm_up, n_batches : batches before the clock starts, and batches of a peer that it measures
    """

    folder: Path
    n_items: int
    hidden_size: int = 128
    n_layers: int = 2
    n_heads: int = 2
    feed_forward_size: int = 512
    dropout: float = 0.2
    mask_prob: float = 0.2
    max_length: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    warm_up: int = 2
    n_batches: int = 12

    @classmethod
    def load(cls, folder: Path) -> "Workload":
        """What ``save`` wrote."""
        values = json.loads((folder / "workload.json").read_text())
        return cls(**{**values, "folder": folder})

    def save(self, sequences: list[NDArray[np.int32]]) -> None:
        """Write the settings and one training sequence per user (items from 1, oldest first)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "workload.json").write_text(json.dumps(values))
        lengths = np.array([len(sequence) for sequence in sequences])
        np.savez(self.folder / "sequences.npz", items=np.concatenate(sequences), lengths=lengths)

    def sequences(self) -> list[NDArray[np.int32]]:
        """One training sequence per user, at most ``max_length`` items."""
        with np.load(self.folder / "sequences.npz") as arrays:
            return np.split(arrays["items"], np.cumsum(arrays["lengths"])[:-1])


class Clock:
    """Counts sequences and predicted positions from the end of the warm-up to the last batch."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.n_batches, self.n_sequences, self.n_predicted = 0, 0, 0
        self.started = self.stopped = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether all batches were measured."""
        return self.n_batches >= self.workload.warm_up + self.workload.n_batches

    def after_batch(self, n_sequences: int, n_predicted: int) -> None:
        """Count a batch; to be called when the optimiser's step is done."""
        self.n_batches += 1
        self.stopped = time.perf_counter()
        if self.n_batches <= self.workload.warm_up:
            self.started = self.stopped
        else:
            self.n_sequences += n_sequences
            self.n_predicted += n_predicted

    def save(self, name: str) -> None:
        """Write the figures for ``train_vs_peers.py``."""
        figures = {
            "seconds": self.stopped - self.started,
            "sequences": self.n_sequences,
            "predicted": self.n_predicted,
            "batches": self.n_batches - self.workload.warm_up,
            "threads": torch.get_num_threads(),
        }
        (self.workload.folder / f"{name}.json").write_text(json.dumps(figures))
