"""Recurrent encoders beside the formulas of their layers."""

import math

import pytest
import torch
from small_encoders import batch_of, settings_of

from ml.data.vocabulary import VocabularyDescription
from ml.models.recurrent import Gru, Lstm
from schemas.errors import ConfigError

SETTINGS = {
    "hidden_size": 1,
    "n_layers": 1,
    "n_heads": 1,
    "max_length": 4,
    "head": "none",
    "embedding_dropout": 0.0,
    "encoder_dropout": 0.0,
}


def of_one_column(kind, **settings):
    """An encoder of one column whose items are worth a tenth of their token ids, and whose weights are all 1."""
    encoder = kind(settings_of(architecture="gru", **{**SETTINGS, **settings}), VocabularyDescription(9))
    with torch.no_grad():
        for parameter in encoder.layers.parameters():
            parameter.fill_(1.0)
        encoder.item_table.weight.copy_(torch.arange(9.0).unsqueeze(1) / 10)
    return encoder


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def gru_step(x, state):
    """All weights and biases are 1: gates of x + h + 2, a new state of x + 1 + r (h + 1)."""
    gate = sigmoid(x + state + 2)
    return (1 - gate) * math.tanh(x + 1 + gate * (state + 1)) + gate * state


@torch.no_grad()
def test_a_gru_reads_its_tokens_in_order_and_no_padding():
    states = [gru_step(0.5, 0.0)]
    states.append(gru_step(0.8, states[0]))

    hidden = of_one_column(Gru).eval().encode(batch_of([0, 0, 5, 8]))
    assert hidden[0, 2:, 0].tolist() == pytest.approx(states)


@torch.no_grad()
def test_an_lstm_is_mixed_with_the_mean_of_the_items_so_far():
    encoder = of_one_column(Lstm).eval()
    encoder.share_logit.fill_(math.log(3))  # a share of three quarters
    gate, new = sigmoid(2.5), math.tanh(2.5)
    cell = gate * new
    states = [gate * math.tanh(cell)]
    gate, new = sigmoid(0.8 + states[0] + 2), math.tanh(0.8 + states[0] + 2)
    states.append(gate * math.tanh(gate * cell + gate * new))

    expected = [0.75 * states[0] + 0.25 * 0.5, 0.75 * states[1] + 0.25 * 0.65]
    assert encoder.encode(batch_of([0, 5, 8]))[0, 1:, 0].tolist() == pytest.approx(expected)


def test_the_share_of_the_state_is_learned():
    encoder = of_one_column(Lstm)
    encoder.encode(batch_of([0, 5, 8])).sum().backward()
    assert encoder.share_logit.grad != 0


def test_recurrent_layers_are_not_compiled():
    settings = settings_of(architecture="gru")
    compiled = settings_of(architecture="gru", training=type(settings.training)(compile=True))
    Gru.require_settings("carts", settings)
    with pytest.raises(ConfigError, match=r"encoders\.carts\.training\.compile: expected false for architecture=gru"):
        Gru.require_settings("carts", compiled)
