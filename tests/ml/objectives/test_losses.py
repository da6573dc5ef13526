import math

import pytest
import torch

from conf.encoders import LossSettings, MaskingSettings, ModelSettings
from ml.models.transformer import Bert4Rec
from ml.objectives.cloze import IGNORE_INDEX, MaskedBatch, mask_tokens
from ml.objectives.losses import (
    chosen_loss,
    cloze_loss,
    draw_negatives,
    full_softmax_loss,
    gbce_loss,
    sampled_softmax_loss,
)
from schemas.tokens import FIRST_ITEM, MASK, UNK

SETTINGS = ModelSettings(hidden_size=2, n_layers=1, n_heads=1, feed_forward_size=4)
FULL, SAMPLED, GBCE = (LossSettings(name=name) for name in ("full", "sampled", "gbce"))


def model_with_table(rows, **kwargs):
    model = Bert4Rec(SETTINGS, n_tokens=len(rows), max_length=4, **kwargs)
    with torch.no_grad():
        model.item_table.weight.copy_(torch.tensor(rows))
    return model


def distinct(labels):
    return labels.unique(return_inverse=True)


@pytest.fixture
def model():
    """PAD and MASK score 100 along the first axis; UNK 0; the items 1, 2 and 3."""
    return model_with_table([[100.0, 0], [100.0, 0], [0.0, 0], [1.0, 0], [2.0, 0], [3.0, 0]])


def test_full_softmax_is_over_unknown_and_items_and_never_over_padding_or_mask(model):
    loss = full_softmax_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([4, 3]), model)

    first = -math.log(math.exp(2) / (math.exp(0) + math.exp(1) + math.exp(2) + math.exp(3)))
    assert loss.item() == pytest.approx(first + math.log(4))


def test_sampled_softmax_lowers_negatives_by_their_expected_count_and_removes_hits(model):
    # label 4; negatives 3 and an accidental hit, 4; two draws among three items find each 2/3 times on average
    loss = sampled_softmax_loss(torch.tensor([[1.0, 0.0]]), *distinct(torch.tensor([4])), torch.tensor([3, 4]), model)

    negative = math.exp(1) / (2 / 3)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + negative)))


def test_another_rows_label_is_a_candidate_once_and_with_certainty(model):
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = sampled_softmax_loss(vectors, *distinct(torch.tensor([4, 5])), torch.tensor([5, 5, 3]), model)

    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(3) + math.exp(1)))
    assert loss.item() == pytest.approx(first + math.log(3))


def test_sampled_softmax_with_every_item_as_negative_equals_the_full_one_over_items():
    torch.manual_seed(7)
    model = Bert4Rec(SETTINGS, n_tokens=30, max_length=4)
    with torch.no_grad():
        model.item_table.weight.normal_()
        model.item_table.bias[UNK] = -1e4  # the full softmax has one output more
    vectors, labels = torch.randn(9, 2), torch.randint(FIRST_ITEM, 30, (9,))

    sampled = sampled_softmax_loss(vectors, *distinct(labels), torch.arange(FIRST_ITEM, 30), model)
    torch.testing.assert_close(sampled, full_softmax_loss(vectors, labels, model))


def test_the_sampled_denominator_is_the_full_one_on_average():
    torch.manual_seed(7)
    model = Bert4Rec(SETTINGS, n_tokens=53, max_length=4)
    with torch.no_grad():
        model.item_table.weight.normal_()
        model.item_table.bias[UNK] = -1e4
    vectors, labels = torch.randn(1, 2), torch.tensor([10])
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        losses = torch.stack(
            [
                sampled_softmax_loss(vectors, *distinct(labels), draw_negatives(53, 20, generator), model)
                for _ in range(2000)
            ]
        )

    # exp(loss) is the denominator over the label's own exp(logit)
    assert losses.exp().mean().item() == pytest.approx(full_softmax_loss(vectors, labels, model).exp().item(), rel=0.02)


@pytest.mark.parametrize("candidates", [None, torch.tensor([5, 6])])
def test_the_loss_sums_over_hidden_positions_and_counts_them(candidates):
    model = Bert4Rec(SETTINGS, n_tokens=8, max_length=4).eval()
    inputs = torch.tensor([[0, 3, MASK], [MASK, 4, MASK]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 4], [5, IGNORE_INDEX, 3]])
    settings = FULL if candidates is None else SAMPLED
    loss, n_hidden = cloze_loss(model, MaskedBatch(inputs, labels), candidates, settings)

    vectors = model.output_vectors(model.encode(inputs)[[0, 1, 1], [2, 0, 2]])
    true = torch.tensor([4, 5, 3])
    if candidates is None:
        expected = full_softmax_loss(vectors, true, model)
    else:
        expected = sampled_softmax_loss(vectors, *distinct(true), candidates, model)
    assert n_hidden == 3
    torch.testing.assert_close(loss, expected)


def test_gbce_is_the_papers_formula_with_accidental_hits_removed(model):
    # three items, two negatives: alpha = 2 / (3 - 1) = 1, so beta = 1 whatever t; label 4 scores 2
    one = gbce_loss(torch.tensor([[1.0, 0.0]]), *distinct(torch.tensor([4])), torch.tensor([3, 4]), model, t=0.75)
    assert one.item() == pytest.approx((-log_sigmoid(2) - log_sigmoid(-1)) / 3)

    # one negative: alpha = 1/2, beta = 1/2 (t (1 - 2) + 2) = 1 - t/2
    t = 0.5
    calibrated = gbce_loss(torch.tensor([[1.0, 0.0]]), *distinct(torch.tensor([4])), torch.tensor([5]), model, t)
    assert calibrated.item() == pytest.approx((-0.75 * log_sigmoid(2) - log_sigmoid(-3)) / 2)


def test_gbce_removes_a_hit_from_its_own_row_alone(model):
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = gbce_loss(vectors, *distinct(torch.tensor([5, 3])), torch.tensor([3, 5]), model, t=0.0)

    first = -log_sigmoid(3) - log_sigmoid(-1)
    second = -log_sigmoid(1) - log_sigmoid(-3)
    assert loss.item() == pytest.approx((first + second) / 3)


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


@pytest.mark.parametrize("settings", [SAMPLED, GBCE])
def test_a_sampled_loss_without_negatives_is_refused(model, settings):
    labels = torch.tensor([[IGNORE_INDEX, 4]])
    with pytest.raises(ValueError, match="compares with negatives"):
        cloze_loss(model, MaskedBatch(torch.tensor([[3, MASK]]), labels), None, settings)


@pytest.mark.parametrize("table", ["full", "hashed", "product"])
@pytest.mark.parametrize("settings", [FULL, SAMPLED, GBCE])
def test_every_loss_learns_with_every_table(settings, table):
    torch.manual_seed(7)
    shape = ModelSettings(
        hidden_size=16, n_layers=1, n_heads=2, feed_forward_size=16, table=table, table_rows=8, table_splits=4
    )
    model = Bert4Rec(shape, n_tokens=12, max_length=4).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, 9]])
    batch = MaskedBatch(torch.tensor([[3, 5, MASK], [0, 7, MASK]]), labels)
    losses = []
    for _ in range(20):
        loss, _ = cloze_loss(model, batch, torch.tensor([5, 6, 8, 11]), settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.7 * losses[0]


def test_head_and_logits_see_hidden_positions_only(monkeypatch):
    model = Bert4Rec(SETTINGS, n_tokens=8, max_length=4)
    shapes = []
    model.head.register_forward_hook(lambda head, inputs, output: shapes.append(output.shape))
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda vectors, ids: shapes.append(vectors.shape) or logits(vectors, ids))
    labels = torch.tensor([[IGNORE_INDEX, 4, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX, 3]])
    cloze_loss(model, MaskedBatch(torch.full((2, 3), MASK), labels), None, FULL)

    assert shapes == [(2, 2), (2, 2)]


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_fresh_model_starts_at_the_loss_of_a_uniform_guess(is_sampled):
    torch.manual_seed(7)
    n_items = 5000
    n_tokens = FIRST_ITEM + n_items
    model = Bert4Rec(ModelSettings(n_layers=2), n_tokens=n_tokens, max_length=16)
    generator = torch.Generator().manual_seed(7)
    token_ids = torch.randint(FIRST_ITEM, n_tokens, (32, 16), generator=generator)
    batch = mask_tokens(token_ids, n_tokens, MaskingSettings(), generator)
    negatives = draw_negatives(n_tokens, 1000, generator) if is_sampled else None
    loss, n_hidden = cloze_loss(model, batch, negatives, SAMPLED if is_sampled else FULL)

    assert loss.item() / n_hidden == pytest.approx(math.log(n_items + 1), rel=0.05)


def test_a_sparse_table_gets_gradients_in_the_rows_used_alone():
    model = Bert4Rec(SETTINGS, n_tokens=100, max_length=4, sparse_table=True)
    inputs = torch.tensor([[0, 7, MASK]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 9]])
    loss, _ = cloze_loss(model, MaskedBatch(inputs, labels), torch.tensor([20, 21]), SAMPLED)
    loss.backward()

    item_grad, bias_grad = (parameter.grad for parameter in model.table_parameters())
    assert item_grad.is_sparse
    assert bias_grad.is_sparse
    assert item_grad.coalesce().indices()[0].tolist() == [MASK, 7, 9, 20, 21]
    assert bias_grad.coalesce().indices()[0].tolist() == [9, 20, 21]


@pytest.mark.parametrize("candidates", [None, torch.tensor([5, 6, 5, 3])])
def test_a_sparse_table_gets_the_dense_tables_gradient(candidates):
    gradients = []
    for is_sparse in (False, True):
        torch.manual_seed(7)
        model = Bert4Rec(SETTINGS, n_tokens=8, max_length=4, sparse_table=is_sparse).eval()
        labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 4]])
        settings = FULL if candidates is None else SAMPLED
        loss, _ = cloze_loss(model, MaskedBatch(torch.tensor([[3, 4, MASK]]), labels), candidates, settings)
        loss.backward()
        gradients.append(model.item_table.weight.grad.to_dense())

    torch.testing.assert_close(*gradients)


def test_negatives_are_uniform_items_and_never_special_tokens():
    drawn = draw_negatives(8, 50_000, torch.Generator().manual_seed(7))
    share = torch.bincount(drawn, minlength=8) / len(drawn)

    assert share.tolist() == pytest.approx([0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.2], abs=0.01)


@pytest.mark.parametrize(
    ("name", "n_items", "expected"),
    [
        ("auto", 100, "full"),
        ("auto", 101, "sampled"),
        ("full", 101, "full"),
        ("sampled", 5, "sampled"),
        ("gbce", 5, "gbce"),
    ],
)
def test_large_vocabularies_use_the_sampled_softmax_unless_told(name, n_items, expected):
    assert chosen_loss(LossSettings(name=name, full_softmax_max_items=100), n_items) == expected
