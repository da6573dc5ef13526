"""RePlay's BERT4Rec on a workload; runs in an environment of ``replay.txt``."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, Trainer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import PandasSequentialDataset, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.optimizer_utils import FatOptimizerFactory
from replay.models.nn.sequential.bert4rec import Bert4Rec, Bert4RecTrainingDataset
from torch.utils.data import DataLoader
from workload import Clock, Workload


class Timing(Callback):
    """Tells the clock about each batch, and stops the training when it is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the positions that are real and masked."""
        is_hidden = batch["pad_mask"] & ~batch["token_mask"]
        self.clock.after_batch(len(is_hidden), int(is_hidden.sum()))
        trainer.should_stop = self.clock.is_over


def read_schema(workload: Workload) -> TensorSchema:
    """Items are numbered from 0; padding has the number 0 too, and a mask tells it apart."""
    item_id = TensorFeatureInfo(
        name="item_id",
        feature_type=FeatureType.CATEGORICAL,
        is_seq=True,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        cardinality=workload.n_items,
        embedding_dim=workload.hidden_size,
    )
    return TensorSchema([item_id])


def read_dataset(workload: Workload, schema: TensorSchema) -> Bert4RecTrainingDataset:
    """One row per user: without a sliding window each gives one sequence, its last items."""
    items = [sequence.astype(np.int64) - 1 for sequence in workload.sequences()]
    frame = pd.DataFrame({"user_id": np.arange(len(items)), "item_id": items})
    sequential = PandasSequentialDataset(schema, "user_id", "item_id", frame)
    return Bert4RecTrainingDataset(sequential, workload.max_length, mask_prob=workload.mask_prob)


def main() -> None:
    """Train for the batches asked for."""
    workload = Workload.load(Path(sys.argv[1]))
    schema = read_schema(workload)
    model = Bert4Rec(
        schema,
        block_count=workload.n_layers,
        head_count=workload.n_heads,
        hidden_size=workload.hidden_size,
        max_seq_len=workload.max_length,
        dropout_rate=workload.dropout,
        enable_embedding_tying=True,
        loss_type="CE",
        optimizer_factory=FatOptimizerFactory(learning_rate=workload.learning_rate),
    )
    loader = DataLoader(read_dataset(workload, schema), batch_size=workload.batch_size, shuffle=True, drop_last=True)
    clock = Clock(workload)
    trainer = Trainer(
        max_epochs=100,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Timing(clock)],
    )
    trainer.fit(model, loader)
    clock.save("replay")


if __name__ == "__main__":
    main()
