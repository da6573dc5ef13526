from dataclasses import replace

import numpy as np
import pytest
import torch
from packed_rows import random_sequences
from small_encoders import batch_of, settings_of, transformer

from conf.encoders import InferenceSettings
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.inference import embed as embedding
from ml.inference.embed import embed_sequences
from ml.models import last_states
from ml.objectives.cloze import Cloze
from ml.objectives.ranking import rank_last_items
from schemas.tokens import MASK

SETTINGS = settings_of(hidden_size=16, n_layers=2, n_heads=2, feed_forward_size=32, max_length=4)


@pytest.fixture
def model():
    torch.manual_seed(7)
    return transformer(SETTINGS, n_tokens=20)


def embed(model, rows, **settings):
    return embed_sequences(model, Sequences.from_rows(rows), InferenceSettings(**settings))


def encode(model, *token_ids):
    """The token vectors of one sequence, float32 [L, D]."""
    with torch.no_grad():
        return model.eval().encode(batch_of(token_ids))[0].numpy()


def test_an_embedding_is_the_mean_of_the_last_layers_token_vectors(model):
    (embedding,) = embed(model, [[5, 6, 7]])

    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, encode(model, 5, 6, 7).mean(axis=0), atol=1e-6)


def test_recency_weighs_a_token_half_as_much_as_the_one_a_half_life_later(model):
    embedding = embed(model, [[5, 6, 7], [5]], pooling="recency", half_life=2.0)

    weights = np.array([0.5, 0.5**0.5, 1.0])
    np.testing.assert_allclose(embedding[0], weights @ encode(model, 5, 6, 7) / weights.sum(), atol=1e-6)
    np.testing.assert_allclose(embedding[1], encode(model, 5)[0], atol=1e-6)


def test_last_is_the_last_tokens_vector(model):
    embedding = embed(model, [[5, 6, 7], [8]], pooling="last")

    np.testing.assert_allclose(embedding, [encode(model, 5, 6, 7)[-1], encode(model, 8)[-1]], atol=1e-6)


def test_mask_is_the_vector_of_a_mask_put_after_the_last_tokens_that_leave_room_for_it(model):
    embedding = embed(model, [[5, 6, 7, 8, 9], [8]], pooling="mask")

    expected = [encode(model, 7, 8, 9, MASK)[-1], encode(model, 8, MASK)[-1]]
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_a_mask_has_type_and_time_of_the_last_event():
    part = Sequences(np.arange(10, 17), np.array([1, 3, 4]), np.arange(1, 8), 100 * np.arange(7))
    columns = SequenceBatch([11, 12, MASK, 13, MASK], [2, 3, 3, 4, 4], [100, 200, 200, 300, 300])

    masked = embedding.with_mask(part)
    for name in ("token_ids", "event_types", "timestamps"):
        assert getattr(masked.flat(), name).tolist() == getattr(columns, name)
    assert masked.offsets.tolist() == [0, 3, 5]


def test_of_a_long_sequence_the_last_tokens_are_kept(model):
    long, last, first = embed(model, [[5, 6, 7, 8, 9, 10], [7, 8, 9, 10], [5, 6, 7, 8]])

    np.testing.assert_allclose(long, last, atol=1e-6)
    assert not np.allclose(long, first, atol=1e-3)


@pytest.mark.parametrize("tokens_per_batch", [3, 64])
@pytest.mark.parametrize("pooling", ["mean", "recency", "last", "mask"])
def test_other_rows_their_order_and_padding_do_not_change_an_embedding(model, pooling, tokens_per_batch):
    sequences = [[5], [6, 7, 8, 9], [10, 11], [12]]
    together = embed(model, sequences, pooling=pooling, tokens_per_batch=tokens_per_batch)

    for row, sequence in zip(together, sequences, strict=True):
        np.testing.assert_allclose(row, embed(model, [sequence], pooling=pooling)[0], atol=1e-6)


def test_sequences_may_be_a_part_of_a_longer_array(model):
    part = Sequences(np.array([0, 0, 5, 6, 7, 99], np.int32), np.array([2, 3, 5], np.int32))

    np.testing.assert_array_equal(embed_sequences(model, part, InferenceSettings()), embed(model, [[5], [6, 7]]))


def test_a_model_in_training_embeds_without_dropout_and_stays_in_training(model):
    model.train()
    first, second = (embed(model, [[5, 6]]) for _ in range(2))

    np.testing.assert_array_equal(first, second)
    assert model.training


def test_no_sequences_give_no_rows(model):
    assert embed(model, []).shape == (0, 16)


def test_a_sequence_without_tokens_is_refused(model):
    with pytest.raises(ValueError, match="1 of 2 sequences hold no token"):
        embed(model, [[], [5]])


@pytest.mark.parametrize("token_id", [0, 1, 20])
def test_ids_that_are_no_events_of_the_vocabulary_are_refused_not_clamped(model, token_id):
    with pytest.raises(ValueError, match="built with another vocabulary"):
        embed(model, [[5, token_id]])


@pytest.mark.parametrize("pooling", ["mean", "recency", "last", "mask"])
def test_packed_rows_give_the_vectors_of_rows_of_their_own(pooling, monkeypatch):
    sequences, model = random_sequences(300, 50, longest=9), transformer(replace(SETTINGS, max_length=10), 50)
    settings = InferenceSettings(pooling=pooling)
    alone = embed_sequences(model, sequences, settings)
    for module in (embedding, last_states):
        monkeypatch.setattr(module, "uses_packed_rows", lambda encoder: True)
    monkeypatch.setattr(last_states, "POSITIONS", 512)
    monkeypatch.setattr(embedding, "SEQUENCES_AT_ONCE", 130)

    np.testing.assert_allclose(embed_sequences(model, sequences, settings), alone, atol=1e-6)


def test_packed_rows_rank_the_last_items_alike(monkeypatch):
    model = transformer(replace(SETTINGS, max_length=10), 50)
    batch = random_sequences(60, 50, longest=9).batch(np.arange(60), 9).tensors()
    objective = Cloze(settings_of(), model.vocabulary)
    alone = rank_last_items(model, objective, batch, left_out=batch.token_ids[:, :-1])
    monkeypatch.setattr(last_states, "uses_packed_rows", lambda encoder: True)
    monkeypatch.setattr(last_states, "POSITIONS", 256)

    assert torch.equal(rank_last_items(model, objective, batch, left_out=batch.token_ids[:, :-1]), alone)
