"""Merged streams of a small shop, for tests of ``ml``: what happens next, and to which item, follows from what was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conf.encoders import EncoderSettings, EventEmbeddingSettings, NextEventSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.item_attributes import ItemAttributes
from ml.data.sequence_batch import Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.training.checkpoint import ModelCard
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, TrainingResult, train_model
from schemas.tokens import FIRST_ITEM

BEHAVIOURS = ("page_visit", "search_query", "product_buy")
N_SKUS, N_URLS, N_QUERIES = 6, 6, 2
FIRST_URL, FIRST_QUERY = FIRST_ITEM + N_SKUS, FIRST_ITEM + N_SKUS + N_URLS
N_TOKENS = FIRST_QUERY + N_QUERIES


def event_settings(**values: Any) -> EncoderSettings:
    """Settings of a small encoder of the stream."""
    small = dict(hidden_size=16, n_layers=1, n_heads=2, feed_forward_size=16, max_length=8, table_rows=64)
    quiet = dict(embedding_dropout=0.0, encoder_dropout=0.0, attention="causal", objective="next_event")
    sections = dict(
        event_embedding=EventEmbeddingSettings(width=8),
        next_event=NextEventSettings(in_batch_negatives=64, uniform_negatives=16),
    )
    cosine = dict(similarity="cosine", temperature=0.05)
    return EncoderSettings(**({"behaviours": BEHAVIOURS} | small | quiet | cosine | sections | values))


def shop_vocabulary() -> VocabularyDescription:
    """Skus 3 to 8, urls 9 to 14, queries 15 and 16."""
    attributes = ItemAttributes.unknown(N_TOKENS)
    attributes.item_kind[FIRST_ITEM:FIRST_URL] = 1
    attributes.item_kind[FIRST_URL:FIRST_QUERY] = 2
    attributes.item_kind[FIRST_QUERY:] = 3
    attributes.category[FIRST_ITEM:FIRST_URL] = [1, 1, 1, 2, 2, 0]
    attributes.price[FIRST_ITEM:FIRST_URL] = [1, 2, 3, 100, 100, 0]
    attributes.codes[FIRST_ITEM : FIRST_URL - 1] = np.arange(1, 6)[:, None]
    attributes.codes[FIRST_QUERY:] = 256
    attributes.n_events[FIRST_ITEM:] = 1 + np.arange(N_TOKENS - FIRST_ITEM)
    return VocabularyDescription.of_attributes(attributes, ("sku", "url", "query"))


def shop_rows(n_rows: int, seed: int = 0) -> Sequences:
    """Rows of 6 events: a client visits the page of a sku, buys it two hours later, and visits the next one's page."""
    starts = np.random.default_rng(seed).integers(0, N_SKUS, n_rows)
    steps = np.arange(6)
    of_sku = (starts[:, None] + steps // 2) % N_SKUS
    is_buy = steps % 2 == 1
    tokens = np.where(is_buy, FIRST_ITEM, FIRST_URL) + of_sku
    types = np.broadcast_to(np.where(is_buy, 3, 1), tokens.shape)
    waits = np.where(is_buy, 2 * 3600, 1800)
    times = 1_660_000_000 + seed + np.broadcast_to(waits.cumsum(), tokens.shape)
    return Sequences(
        tokens.astype(np.int32).ravel(),
        np.arange(n_rows + 1) * 6,
        types.astype(np.int8).ravel(),
        times.astype(np.int64).ravel(),
    )


def train_on_shop(objective: str, epochs: int, folder: Path) -> tuple[list[float], TrainingResult]:
    """A small recurrent encoder, trained; the losses that it reported."""
    training = TrainingSettings(n_ranks=1, epochs=epochs, tokens_per_batch=64, learning_rate=1e-2)
    settings = event_settings(architecture="gru", objective=objective, training=training)
    job = TrainingJob(ModelCard("shop", settings, shop_vocabulary(), "f", 0), folder / "m", folder / "c", seed=1)
    lines: list[Mapping[str, Any]] = []
    feed = ArrayFeed(shop_rows(120), shop_rows(40, seed=1), (8,), tokens_per_batch=64, seed=1)
    result = train_model(job, feed, Ranks(), lines.append)
    return [line["train/loss"] for line in lines if "train/loss" in line], result
