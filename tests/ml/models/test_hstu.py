"""HSTU's layer beside its formula."""

import math

import pytest
import torch
from small_encoders import settings_of

from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.hstu import Hstu, HstuLayer, time_buckets
from ml.models.padding import Grid

SETTINGS = settings_of(
    architecture="hstu", hidden_size=2, n_layers=1, n_heads=1, max_length=4, embedding_dropout=0.0, encoder_dropout=0.0
)


def silu(x):
    return x / (1 + math.exp(-x))


@torch.no_grad()
def test_a_layer_of_two_columns_gives_what_its_formula_gives_by_hand():
    """Rows [1, -1] and [-1, 1] are their own norms; gate, value, query and key are then SiLU of themselves."""
    layer = HstuLayer(SETTINGS).eval()
    layer.projection.weight.copy_(torch.eye(2).repeat(4, 1))
    layer.output.weight.copy_(torch.eye(2))
    layer.output.bias.zero_()
    layer.position_bias.weight.copy_(torch.tensor([[0.5], [0.25], [0.0], [0.0]]))
    layer.time_bias.weight.zero_()
    layer.time_bias.weight[7] = 1.0
    buckets = torch.tensor([[[[0, 7], [7, 0]]]])
    rows = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    is_visible = torch.tensor([[[[True, False], [True, True]]]])
    second = layer(rows, Grid(None, 1, 2), is_visible, buckets)[1].tolist()

    up, down = silu(1), silu(-1)  # the second row's gate, value, query and key are [down, up]
    to_first = silu(2 * up * down + 0.25 + 1.0) / 4  # its query with the first's key [up, down]; one position, bucket 7
    to_itself = silu(up * up + down * down + 0.5) / 4
    attended = [to_first * up + to_itself * down, to_first * down + to_itself * up]
    middle = sum(attended) / 2
    spread = math.sqrt((attended[0] - middle) ** 2 + 1e-6)
    normed = [(each - middle) / spread for each in attended]
    assert second == pytest.approx([-1 + down * normed[0], 1 + up * normed[1]], abs=1e-5)


def test_times_apart_go_by_the_logarithm_of_seconds():
    buckets = time_buckets(torch.tensor([[0, 1, 101]]))[0]
    assert buckets[2].tolist() == [int(math.log(101) / 0.301), int(math.log(100) / 0.301), 0]
    assert torch.equal(buckets, buckets.T)
    assert int(time_buckets(torch.tensor([[0, 2**62]])).max()) == 127


@torch.no_grad()
def test_times_matter_where_a_batch_has_them():
    torch.manual_seed(7)
    encoder = Hstu(SETTINGS, VocabularyDescription(9)).eval()
    tokens = torch.tensor([[5, 6, 7]])
    for layer in encoder.layers:
        layer.time_bias.weight.normal_()
    vectors = [
        encoder.encode(SequenceBatch(tokens, timestamps=times and torch.tensor([times])))[0, -1]
        for times in (None, [10, 20, 30], [110, 120, 130], [10, 20, 3000])
    ]
    assert torch.equal(vectors[1], vectors[2]), "only time between events counts"
    assert not torch.allclose(vectors[1], vectors[3], atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-5)


def test_packed_rows_are_one_graph_for_the_compiler():
    torch.manual_seed(7)
    encoder = Hstu(SETTINGS, VocabularyDescription(9)).eval()
    batch = SequenceBatch(torch.tensor([[5, 6, 7, 8, 0]]), segments=torch.tensor([[1, 1, 1, 2, 0]]))
    positions = torch.tensor([2, 3])
    compiled = torch.compile(encoder.encode_at, backend="eager", fullgraph=True)(batch, positions)
    torch.testing.assert_close(compiled, encoder.encode_at(batch, positions))


def test_what_is_attended_to_is_of_the_size_of_the_gate_from_the_start():
    """It is divided by max_length, so that of short sequences little would be left beside a larger epsilon."""
    torch.manual_seed(0)
    settings = settings_of(architecture="hstu", hidden_size=64, n_layers=2, n_heads=1, max_length=50)
    layer = Hstu(settings, VocabularyDescription(13)).layers[1].eval()
    normed = []
    layer.attended_norm.register_forward_hook(lambda _, inputs, output: normed.append(output))
    is_visible = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    layer(torch.randn(9, 64), Grid(None, 1, 9), is_visible, None)
    assert normed[0].std() > 0.05  # .03 with the default of LayerNorm
    # Glorot and Bengio's uniform spread, as in the authors' code
    assert layer.output.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
