"""Our BERT4Rec on a workload; runs in the environment of the project."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from workload import Clock, Workload

from conf.encoders import LossSettings, MaskingSettings, ModelSettings
from conf.training import TrainingSettings
from ml.data.sequence_batch import Sequences
from ml.training.step import Learner, Recipe
from schemas.tokens import FIRST_ITEM

WIDTH_STEP = 8


def like_length_batches(workload: Workload, generator: np.random.Generator) -> Iterator[NDArray[np.int32]]:
    """An epoch of left-padded batches: as many rows in each as on the other sides, rows of like length together."""
    sequences = Sequences.from_rows(sequence + FIRST_ITEM - 1 for sequence in workload.sequences())
    by_length = np.lexsort((generator.random(len(sequences)), sequences.lengths))
    batches = np.split(by_length, range(workload.batch_size, len(by_length), workload.batch_size))
    for rows in (batches[number] for number in generator.permutation(len(batches))):
        width = -(-sequences.lengths[rows].max() // WIDTH_STEP) * WIDTH_STEP
        yield sequences.padded(rows, width)


def main() -> None:
    """Train for an epoch after the warm-up: the widths of a part of it could be luckier than those of the rest."""
    workload = Workload.load(Path(sys.argv[1]))
    recipe = Recipe(
        model=ModelSettings(
            hidden_size=workload.hidden_size,
            n_layers=workload.n_layers,
            n_heads=workload.n_heads,
            feed_forward_size=workload.feed_forward_size,
            embedding_dropout=workload.dropout,
            encoder_dropout=workload.dropout,
        ),
        n_tokens=FIRST_ITEM + workload.n_items,
        max_length=workload.max_length,
        training=TrainingSettings(learning_rate=workload.learning_rate, device="cpu"),
        masking=MaskingSettings(mask_prob=workload.mask_prob, last_only_share=0.0),
        loss=LossSettings(name="full"),
    )
    learner = Learner(recipe)
    clock = Clock(workload)
    generator = np.random.default_rng(0)
    warm_up = list(like_length_batches(workload, generator))[: workload.warm_up]
    for batch in [*warm_up, *like_length_batches(workload, generator)]:
        sums = learner.step([batch])
        clock.after_batch(len(batch), sums.n_positions)
    clock.save("ubp")


if __name__ == "__main__":
    main()
