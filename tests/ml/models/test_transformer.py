import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from packed_rows import both_layouts, random_sequences, tokens_by_sequence
from small_encoders import batch_of, settings_of, transformer

from ml.models import padding
from ml.models.padding import Grid
from ml.models.protocol import evaluating
from ml.models.transformer import BLOCKS, Block, Context, SequenceEmbedding

SETTINGS = settings_of(hidden_size=16, n_layers=2, n_heads=2, feed_forward_size=32, max_length=8)
VARIANTS = {
    "report": {},
    "pre-norm": {"norm": "pre", "final_norm": True},
    "wide": {"feed_forward_size": 64, "attention_dropout": 0.0},
    "hashed": {"table": "hashed", "table_rows": 12},
    "product": {"table": "product", "table_splits": 4},
    "causal": {"attention": "causal"},
    "sasrec": {"attention": "causal", "block": "sasrec", "embedding": "scaled", "head": "none", "item_bias": False},
    "ligr": {"attention": "causal", "block": "ligr", "embedding": "sum", "output_table": "separate"},
    "cosine": {"similarity": "cosine", "learn_temperature": True},
}
BATCH = batch_of([0, 0, 5, 6, 7], [3, 4, 5, 6, 7], [0, 0, 0, 0, 9])
IS_TOKEN = BATCH.token_ids != 0


@pytest.fixture
def model():
    torch.manual_seed(7)
    return transformer(SETTINGS, n_tokens=20).eval()


@pytest.fixture(params=VARIANTS)
def variant(request):
    torch.manual_seed(7)
    return transformer(replace(SETTINGS, **VARIANTS[request.param]), n_tokens=20)


@pytest.mark.parametrize("leaves_out", [True, False])
def test_vectors_at_positions_are_those_of_the_whole_and_so_are_their_gradients(variant, monkeypatch, leaves_out):
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: leaves_out)
    variant.eval()
    positions = torch.tensor([2, 4, 6, 14])
    whole = variant.encode(BATCH).flatten(0, 1)[positions]
    part = variant.encode_at(BATCH, positions)
    parameters = [p for name, p in variant.named_parameters() if name.startswith(("embedding", "blocks"))]

    torch.testing.assert_close(part, whole, atol=1e-6, rtol=0)
    for one, other in zip(
        *(torch.autograd.grad(vectors.square().sum(), parameters) for vectors in (part, whole)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rows_without_padding_give_what_the_padded_grid_gives(variant, monkeypatch):
    variant.eval()
    packed = variant.encode(BATCH)[IS_TOKEN]
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: False)

    torch.testing.assert_close(variant.encode(BATCH)[IS_TOKEN], packed, atol=1e-6, rtol=0)


def test_in_training_the_seed_decides_the_vectors(variant):
    vectors = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        vectors.append(variant.encode_at(BATCH, torch.tensor([3, 9])))

    assert torch.equal(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2], atol=1e-3)


def test_each_dropout_can_be_turned_off_alone():
    names = ("embedding_dropout", "encoder_dropout", "attention_dropout")
    off = dict.fromkeys(names, 0.0)

    def varies(**on):
        torch.manual_seed(7)
        model = transformer(replace(SETTINGS, **{**off, **on}), n_tokens=20)
        return not torch.equal(model.encode(BATCH), model.encode(BATCH))

    assert [varies()] + [varies(**{name: 0.5}) for name in names] == [False, True, True, True]


def test_attention_drops_as_the_encoder_does_unless_told():
    assert [Block(replace(SETTINGS, attention_dropout=p)).attention.dropout_prob for p in (None, 0.5)] == [0.2, 0.5]


def test_under_autocast_the_vectors_are_close_and_gradients_finite(variant):
    variant.eval()
    positions = torch.tensor([3, 9])
    expected = variant.encode_at(BATCH, positions)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(variant.encode_at(BATCH, positions).float(), expected, atol=0.1, rtol=0.1)
        loss = variant.logits(variant.output_vectors(variant.train().encode_at(BATCH, positions)), torch.tensor([4, 5]))
    loss.float().sum().backward()

    trained = [p for p in variant.parameters() if p.grad is not None]
    assert trained
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("function", ["encode", "encode_at"])
def test_the_encoder_is_one_graph_for_the_compiler(variant, function):
    arguments = (BATCH,) if function == "encode" else (BATCH, torch.tensor([2, 4, 6, 14]))
    expected = getattr(variant.eval(), function)(*arguments)
    compiled = torch.compile(getattr(variant, function), backend="eager", fullgraph=True)(*arguments)

    is_token = IS_TOKEN if function == "encode" else torch.ones(4, dtype=torch.bool)
    torch.testing.assert_close(compiled[is_token], expected[is_token], atol=1e-6, rtol=0)


@torch.no_grad()
def test_no_token_sees_what_stands_at_padding(model):
    batch = batch_of([0, 0, 5, 6])
    before = model.encode(batch)[:, -2:]
    model.item_table.weight[0] = 100.0

    torch.testing.assert_close(model.encode(batch)[:, -2:], before, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("leaves_out", [True, False])
def test_with_causal_attention_a_token_sees_none_after_it(monkeypatch, leaves_out):
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: leaves_out)
    torch.manual_seed(7)
    model = transformer(replace(SETTINGS, attention="causal"), n_tokens=20).eval()
    one, other = (model.encode(batch_of([0, 5, 6, 7, last])) for last in (8, 9))

    torch.testing.assert_close(one[:, 1:4], other[:, 1:4], atol=1e-6, rtol=0)
    assert not torch.allclose(one[:, 4], other[:, 4], atol=1e-3)


@torch.no_grad()
def test_order_changes_a_tokens_vector(model):
    in_order, swapped = model.encode(batch_of([5, 6, 7], [6, 5, 7]))[:, -1]

    assert not torch.allclose(in_order, swapped, atol=1e-5)


def test_a_row_of_padding_alone_gives_numbers_and_finite_gradients(model):
    vectors = model.encode(batch_of([0, 0, 0], [0, 5, 6]))
    vectors.sum().backward()

    assert vectors.isfinite().all()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_batch_wider_than_the_position_table_is_refused(model):
    with pytest.raises(ValueError, match="width 9 exceeds the model's max_length 8"):
        model.encode(batch_of([5] * 9))


@torch.no_grad()
@pytest.mark.parametrize("leaves_out", [True, False])
def test_clients_that_share_a_row_have_the_vectors_that_each_has_alone(variant, monkeypatch, leaves_out):
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: leaves_out)
    variant.eval()
    padded, packed = (batch.tensors() for batch in both_layouts(random_sequences(20, 20), n_rows=5, width=32))
    alone, together = (tokens_by_sequence(batch, variant.encode(batch)) for batch in (padded, packed))
    torch.testing.assert_close(torch.cat(together), torch.cat(alone), atol=1e-6, rtol=0)

    # positions past the last one that is wanted are any, whatever stands there
    positions = torch.cat([(packed.segments.flatten() % 3 == 1).nonzero().squeeze(1), torch.tensor([0, 0, 31, 159])])
    whole = variant.encode(packed).flatten(0, 1)
    torch.testing.assert_close(variant.encode_at(packed, positions), whole[positions], atol=1e-6, rtol=0)


def test_an_id_beyond_the_vocabulary_is_an_error_not_another_token(model):
    with pytest.raises(IndexError):
        model.encode(batch_of([5, 20]))


def test_the_padding_row_starts_at_zero_and_gets_no_gradient(model):
    model.encode(batch_of([0, 5, 6]))[:, -1].sum().backward()

    assert (model.item_table.weight[0] == 0).all()
    assert (model.item_table.weight.grad[0] == 0).all()


def test_tables_and_weights_start_with_a_spread_of_two_hundredths():
    model = transformer(settings_of(), n_tokens=500)

    for weight in (model.item_table.weight, model.embedding.position_table.weight, model.embedding.projection.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert all((bias == 0).all() for bias in biases)
    assert (model.item_table.bias == 0).all()


def test_logits_are_products_with_the_input_table_plus_the_items_bias(model):
    with torch.no_grad():
        model.item_table.bias[6] = 0.5
    vectors = torch.randn(3, 16)

    expected = vectors @ model.item_table.weight[[9, 6]].T + torch.tensor([0.0, 0.5])
    torch.testing.assert_close(model.logits(vectors, torch.tensor([9, 6])), expected)


def test_cosines_are_divided_by_a_temperature_that_is_learned_down_to_a_hundredth():
    model = transformer(replace(SETTINGS, **VARIANTS["cosine"]), n_tokens=20).eval()
    vectors, items = model.output_vectors(torch.randn(2, 16)), torch.tensor([5, 6, 7])
    expected = F.cosine_similarity(vectors[:, None], model.item_vectors(items)[None], dim=-1)
    torch.testing.assert_close(model.logits(vectors, items), expected / 0.05)
    torch.testing.assert_close(model.logits_between(vectors, 5, 8), expected / 0.05)
    model.logits(vectors, items).sum().backward()
    assert model.temperature.grad != 0
    model.temperature.data.fill_(-1.0)
    model.temperature.grad = None
    bounded = model.logits(vectors.detach(), items)
    torch.testing.assert_close(bounded, expected / 0.01)
    bounded.sum().backward()
    assert model.temperature.grad != 0, "a temperature below the bound can come back"


@pytest.mark.parametrize("changes", [{}, {"similarity": "cosine"}, {"table": "product", "table_splits": 4}])
def test_each_vector_may_have_candidates_of_its_own(changes):
    model = transformer(replace(SETTINGS, **changes), n_tokens=20)
    vectors, own = torch.randn(2, 16), torch.tensor([[5, 6, 7], [8, 6, 9]])
    expected = torch.stack([model.logits(vectors[row : row + 1], own[row])[0] for row in range(2)])
    torch.testing.assert_close(model.logits(vectors, own), expected)


def test_a_separate_output_table_is_what_outputs_are_compared_with_and_a_tied_one_is_saved_once():
    model = transformer(replace(SETTINGS, output_table="separate"), n_tokens=20)
    vectors, items = torch.randn(2, 16), torch.tensor([5, 6])
    torch.testing.assert_close(model.logits(vectors, items), vectors @ model.own_output_table.weight[[5, 6]].T)
    assert model.item_table.bias is None
    assert not any("output_table" in name for name in transformer(SETTINGS, n_tokens=20).state_dict())


def repeat_input(layer):
    """Have a linear layer give its input, as often as it is wide."""
    with torch.no_grad():
        size = layer.weight.shape[1]
        layer.weight.copy_(torch.eye(size).repeat(layer.weight.shape[0] // size, 1))
        layer.bias.zero_()


@pytest.mark.parametrize("block", ["sasrec", "ligr"])
def test_a_block_of_two_columns_gives_what_its_formula_gives_by_hand(block):
    """One row of [3, 1]: its norm is [1, -1], and attention to itself alone gives the value of its own row."""
    settings = replace(SETTINGS, hidden_size=2, n_heads=1, feed_forward_size=2, encoder_dropout=0.0, block=block)
    layer, grid = BLOCKS[block](settings), Grid(None, 1, 1)
    for linear in (each for each in layer.modules() if isinstance(each, torch.nn.Linear)):
        repeat_input(linear)
    row = layer(torch.tensor([[3.0, 1.0]]), Context(grid, None, grid, grid))[0].tolist()
    if block == "sasrec":
        # queries [1, -1] plus the value of the raw row [3, 1]: [4, 0], normed [1, -1]; plus its ReLU, [1, 0]
        assert row == pytest.approx([2.0, -1.0], abs=1e-4)
    else:
        # sigmoid(3) * 1 and sigmoid(1) * -1 are added; the norm is again [1, -1], and SwiGLU gives silu(x) * x
        first, second = 3 + sigmoid(3), 1 - sigmoid(1)
        expected = [first + sigmoid(first) * sigmoid(1), second + sigmoid(second) * sigmoid(-1)]
        assert row == pytest.approx(expected, abs=1e-4)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_tables_and_dense_parameters_part_the_model(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = [names[id(p)] for p in model.row_parameters()]
    dense = [names[id(p)] for p in model.dense_parameters()]

    assert tables == ["item_table.weight", "item_table.bias"]
    assert sorted(tables + dense) == sorted(names.values())


@pytest.mark.parametrize("table", ["hashed", "product"])
def test_a_compact_table_is_dense_and_does_not_decay(table):
    model = transformer(replace(SETTINGS, table=table, table_splits=4), n_tokens=20, sparse_tables=True)
    dense, decaying = ({id(p) for p in group} for group in (model.dense_parameters(), model.decaying_parameters()))

    assert list(model.row_parameters()) == []
    assert not model.has_sparse_tables
    assert id(model.item_table.weight) in dense - decaying


def test_only_matrices_decay(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(p)] for p in model.decaying_parameters()}
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}

    assert decaying == matrices - {"item_table.weight", "item_table.bias", "embedding.position_table.weight"}


def test_evaluating_turns_dropout_off_and_restores_the_mode(model):
    model.train()
    batch = batch_of([5, 6, 7])
    with evaluating(model):
        first, second = model.encode(batch), model.encode(batch)

    assert torch.equal(first, second)
    assert model.training
    assert not torch.equal(model.encode(batch), model.encode(batch))


@torch.no_grad()
def test_scaled_items_are_multiplied_by_the_root_of_the_width():
    embedding = SequenceEmbedding(replace(SETTINGS, embedding="scaled")).eval()
    embedding.position_table.weight.zero_()
    items, batch = torch.randn(3, 16), batch_of([3, 4, 5])
    grid = padding.grid_of_tokens(batch.token_ids != 0)
    torch.testing.assert_close(embedding(items, grid, batch), 4.0 * items)


@torch.no_grad()
def test_cosines_are_divided_by_the_temperature_that_is_set():
    model = transformer(replace(SETTINGS, similarity="cosine", temperature=0.1), n_tokens=20)
    vectors, items = model.output_vectors(torch.randn(2, 16)), torch.tensor([5, 6])
    cosines = F.cosine_similarity(vectors[:, None], model.item_table.weight[items], dim=-1)
    torch.testing.assert_close(model.logits(vectors, items), cosines / 0.1)
