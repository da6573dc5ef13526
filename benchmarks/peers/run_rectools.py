"""RecTools' BERT4Rec on a workload; runs in an environment of ``rectools.txt``."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel
from workload import Clock, Workload


class Timing(Callback):
    """Tells the clock about each batch, and stops the training when it is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the positions with a label."""
        self.clock.after_batch(len(batch["y"]), int((batch["y"] != 0).sum()))
        trainer.should_stop = self.clock.is_over


def read_dataset(workload: Workload) -> Dataset:
    """One interaction per row; the time is the position in the sequence."""
    sequences = workload.sequences()
    lengths = [len(sequence) for sequence in sequences]
    positions = np.concatenate([np.arange(length) for length in lengths])
    interactions = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), lengths),
            Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(positions, unit="s"),
        }
    )
    return Dataset.construct(interactions)


def main() -> None:
    """Train for the batches asked for."""
    workload = Workload.load(Path(sys.argv[1]))
    clock = Clock(workload)

    def make_trainer() -> Trainer:
        return Trainer(
            max_epochs=100,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Timing(clock)],
        )

    model = BERT4RecModel(
        n_blocks=workload.n_layers,
        n_heads=workload.n_heads,
        n_factors=workload.hidden_size,
        dropout_rate=workload.dropout,
        mask_prob=workload.mask_prob,
        session_max_len=workload.max_length,
        loss="softmax",
        lr=workload.learning_rate,
        batch_size=workload.batch_size,
        transformer_layers_kwargs={"ff_factors_multiplier": workload.feed_forward_size // workload.hidden_size},
        get_trainer_func=make_trainer,
    )
    model.fit(read_dataset(workload))
    model.fit_trainer.callbacks[0].clock.save("rectools")  # the model trains with a copy of the trainer


if __name__ == "__main__":
    main()
