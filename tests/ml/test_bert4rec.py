import pytest
import torch

from conf.settings import ModelSettings
from ml.bert4rec import Bert4Rec, evaluating

SETTINGS = ModelSettings(hidden_size=16, n_layers=2, n_heads=2, feed_forward_size=32)


@pytest.fixture
def model():
    torch.manual_seed(7)
    return Bert4Rec(SETTINGS, n_tokens=20, max_length=8).eval()


@torch.no_grad()
def test_padding_width_does_not_change_a_tokens_vector(model):
    narrow = model.encode(torch.tensor([[5, 6, 7]]))
    wide = model.encode(torch.tensor([[0, 0, 0, 0, 0, 5, 6, 7]]))

    torch.testing.assert_close(wide[:, -3:], narrow, atol=1e-6, rtol=0)


@torch.no_grad()
def test_no_token_sees_what_stands_at_padding(model):
    token_ids = torch.tensor([[0, 0, 5, 6]])
    before = model.encode(token_ids)[:, -2:]
    model.item_table.weight[0] = 100.0

    torch.testing.assert_close(model.encode(token_ids)[:, -2:], before, atol=0, rtol=0)


@torch.no_grad()
def test_a_token_sees_those_before_and_after_it(model):
    base = model.encode(torch.tensor([[5, 6, 7]]))[0, 1]

    assert not torch.allclose(model.encode(torch.tensor([[5, 6, 8]]))[0, 1], base, atol=1e-4)
    assert not torch.allclose(model.encode(torch.tensor([[8, 6, 7]]))[0, 1], base, atol=1e-4)


@torch.no_grad()
def test_order_changes_a_tokens_vector(model):
    in_order, swapped = model.encode(torch.tensor([[5, 6, 7], [6, 5, 7]]))[:, -1]

    assert not torch.allclose(in_order, swapped, atol=1e-5)


def test_a_row_of_padding_alone_gives_numbers_and_finite_gradients(model):
    vectors = model.encode(torch.tensor([[0, 0, 0], [0, 5, 6]]))
    vectors.sum().backward()

    assert vectors.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_batch_wider_than_the_position_table_is_refused(model):
    with pytest.raises(ValueError, match="width 9 exceeds the model's max_length 8"):
        model.encode(torch.full((1, 9), 5))


def test_an_id_beyond_the_vocabulary_is_an_error_not_another_token(model):
    with pytest.raises(IndexError):
        model.encode(torch.tensor([[5, 20]]))


def test_the_padding_row_starts_at_zero_and_gets_no_gradient(model):
    model.encode(torch.tensor([[0, 5, 6]]))[:, -1].sum().backward()

    assert (model.item_table.weight[0] == 0).all()
    assert (model.item_table.weight.grad[0] == 0).all()


def test_tables_and_weights_start_with_a_spread_of_two_hundredths():
    model = Bert4Rec(ModelSettings(), n_tokens=500, max_length=64)

    for weight in (model.item_table.weight, model.embedding.position_table.weight, model.embedding.projection.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all((bias == 0).all() for bias in biases)
    assert (model.output_bias.weight == 0).all()


def test_logits_are_products_with_the_input_table_plus_the_items_bias(model):
    with torch.no_grad():
        model.output_bias.weight[6] = 0.5
    vectors = torch.randn(3, 16)

    expected = vectors @ model.item_table.weight[[9, 6]].T + torch.tensor([0.0, 0.5])
    torch.testing.assert_close(model.logits(vectors, torch.tensor([9, 6])), expected)


def test_tables_and_dense_parameters_part_the_model(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = [names[id(p)] for p in model.table_parameters()]
    dense = [names[id(p)] for p in model.dense_parameters()]

    assert tables == ["item_table.weight", "output_bias.weight"]
    assert sorted(tables + dense) == sorted(names.values())


def test_only_matrices_decay(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(p)] for p in model.decaying_parameters()}
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}

    assert decaying == matrices - {"item_table.weight", "output_bias.weight", "embedding.position_table.weight"}


def test_evaluating_turns_dropout_off_and_restores_the_mode(model):
    model.train()
    token_ids = torch.tensor([[5, 6, 7]])
    with evaluating(model):
        first, second = model.encode(token_ids), model.encode(token_ids)

    assert torch.equal(first, second)
    assert model.training
    assert not torch.equal(model.encode(token_ids), model.encode(token_ids))
