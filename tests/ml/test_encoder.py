import numpy as np
import pytest
import torch

from conf.settings import ModelSettings
from ml.bert4rec import Bert4Rec
from ml.encoder import embed_sequences

SETTINGS = ModelSettings(hidden_size=16, n_layers=2, n_heads=2, feed_forward_size=32)


@pytest.fixture
def model():
    torch.manual_seed(7)
    return Bert4Rec(SETTINGS, n_tokens=20, max_length=4)


def test_an_embedding_is_the_mean_of_the_last_layers_token_vectors(model):
    embedding = embed_sequences(model, [np.array([5, 6, 7])], tokens_per_batch=64)

    with torch.no_grad():
        expected = model.eval().encode(torch.tensor([[5, 6, 7]])).mean(dim=1)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_of_a_long_sequence_the_last_tokens_are_kept(model):
    long, last, first = embed_sequences(
        model, [np.array([5, 6, 7, 8, 9, 10]), np.array([7, 8, 9, 10]), np.array([5, 6, 7, 8])], tokens_per_batch=64
    )

    np.testing.assert_allclose(long, last, atol=1e-6)
    assert not np.allclose(long, first, atol=1e-3)


def test_other_rows_and_their_padding_do_not_change_an_embedding(model):
    sequences = [np.array([5]), np.array([6, 7, 8, 9]), np.array([10, 11])]
    together = embed_sequences(model, sequences, tokens_per_batch=64)
    alone = embed_sequences(model, sequences, tokens_per_batch=1)

    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_embeddings_come_in_the_order_of_the_sequences(model):
    sequences = [np.array([5]), np.array([6, 7, 8]), np.array([9, 10]), np.array([11])]
    embeddings = embed_sequences(model, sequences, tokens_per_batch=3)

    for row, sequence in enumerate(sequences):
        np.testing.assert_allclose(embeddings[row], embed_sequences(model, [sequence], 64)[0], atol=1e-6)


def test_a_model_in_training_embeds_without_dropout_and_stays_in_training(model):
    model.train()
    first, second = (embed_sequences(model, [np.array([5, 6])], tokens_per_batch=64) for _ in range(2))

    np.testing.assert_array_equal(first, second)
    assert model.training


def test_no_sequences_give_no_rows(model):
    assert embed_sequences(model, [], tokens_per_batch=64).shape == (0, 16)


def test_a_sequence_without_tokens_is_refused(model):
    with pytest.raises(ValueError, match="1 of 2 sequences hold no token"):
        embed_sequences(model, [np.array([], dtype=np.int64), np.array([5])], tokens_per_batch=64)


@pytest.mark.parametrize("token_id", [0, 1, 20])
def test_ids_that_are_no_events_of_the_vocabulary_are_refused_not_clamped(model, token_id):
    with pytest.raises(ValueError, match="built with another vocabulary"):
        embed_sequences(model, [np.array([5, token_id])], tokens_per_batch=64)
