"""Encoders and batches that tests of ``ml`` are made of."""

from typing import Any

import torch
from torch import Tensor

from conf.encoders import EncoderSettings, LossSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.transformer import Transformer


def settings_of(**values: Any) -> EncoderSettings:
    """Settings of an encoder of page visits."""
    return EncoderSettings(**{"behaviours": ("page_visit",), **values})


def without_dropout(hidden_size: int, max_length: int, **values: Any) -> EncoderSettings:
    """One layer of two heads, trained on all items: what it computes depends on no draw."""
    small = {"n_layers": 1, "n_heads": 2, "feed_forward_size": hidden_size, "loss": LossSettings(name="full")}
    quiet = {"embedding_dropout": 0.0, "encoder_dropout": 0.0}
    return settings_of(**{"hidden_size": hidden_size, "max_length": max_length, **small, **quiet, **values})


TINY = settings_of(
    hidden_size=4, n_layers=1, n_heads=2, feed_forward_size=8, max_length=6, loss=LossSettings(n_negatives=7)
)


def transformer(settings: EncoderSettings, n_tokens: int, sparse_tables: bool = False) -> Transformer:
    """A transformer of random weights."""
    return Transformer(settings, VocabularyDescription(n_tokens), sparse_tables)


def batch_of(*rows: list[int]) -> SequenceBatch[Tensor]:
    """Rows of token ids, all of one width."""
    return SequenceBatch(torch.tensor(rows))
