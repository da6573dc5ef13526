"""Our BERT4Rec on a workload; runs in the environment of the project."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from workload import Clock, Workload

from conf.encoders import EncoderSettings, LossSettings, MaskingSettings
from conf.training import TrainingSettings
from ml.data.sequence_batch import SequenceBatch, Sequences, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.training.step import Learner
from schemas.tokens import FIRST_ITEM

WIDTH_STEP = 8


def like_length_batches(workload: Workload, generator: np.random.Generator) -> Iterator[SequenceBatch[Tokens]]:
    """An epoch of left-padded batches: as many rows in each as on the other sides, rows of like length together."""
    sequences = Sequences.from_rows(sequence + FIRST_ITEM - 1 for sequence in workload.sequences())
    by_length = np.lexsort((generator.random(len(sequences)), sequences.lengths))
    batches = np.split(by_length, range(workload.batch_size, len(by_length), workload.batch_size))
    for rows in (batches[number] for number in generator.permutation(len(batches))):
        width = -(-sequences.lengths[rows].max() // WIDTH_STEP) * WIDTH_STEP
        yield SequenceBatch(sequences.padded(rows, width))


def main() -> None:
    """Train for an epoch after the warm-up: the widths of a part of it could be luckier than those of the rest."""
    workload = Workload.load(Path(sys.argv[1]))
    settings = EncoderSettings(
        behaviours=("made",),
        hidden_size=workload.hidden_size,
        n_layers=workload.n_layers,
        n_heads=workload.n_heads,
        feed_forward_size=workload.feed_forward_size,
        embedding_dropout=workload.dropout,
        encoder_dropout=workload.dropout,
        max_length=workload.max_length,
        training=TrainingSettings(learning_rate=workload.learning_rate, device="cpu"),
        masking=MaskingSettings(mask_prob=workload.mask_prob, last_only_share=0.0),
        loss=LossSettings(name="full"),
    )
    learner = Learner(settings, VocabularyDescription(FIRST_ITEM + workload.n_items))
    clock = Clock(workload)
    generator = np.random.default_rng(0)
    warm_up = list(like_length_batches(workload, generator))[: workload.warm_up]
    for batch in [*warm_up, *like_length_batches(workload, generator)]:
        sums = learner.step([batch])
        clock.after_batch(len(batch), sums.n_targets)
    clock.save("ubp")


if __name__ == "__main__":
    main()
