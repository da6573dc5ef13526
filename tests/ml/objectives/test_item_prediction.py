"""The loss of an encoder's hidden states: which positions and candidates it sees, what it gives them to learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_encoders import batch_of, settings_of, transformer

from conf.encoders import LossSettings
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.cloze import Cloze
from ml.objectives.item_prediction import FIRST_OUTPUT, predict_tokens
from ml.objectives.next_item import NextItem
from schemas.tokens import FIRST_ITEM, MASK, PAD, UNK

SHAPE = {"hidden_size": 2, "n_layers": 1, "n_heads": 1, "feed_forward_size": 4, "max_length": 4}
FULL, SAMPLED, GBCE = (settings_of(**SHAPE, loss=LossSettings(name=name)) for name in ("full", "sampled", "gbce"))
BATCH = predict_tokens(
    batch_of([0, 3, MASK], [MASK, 4, MASK]),
    torch.tensor([[0, 3, 4], [5, 4, 3]]),
    torch.tensor([[False, False, True], [True, False, True]]),
)
LAST_ONLY = predict_tokens(
    batch_of([3, 5, MASK], [0, 7, MASK]),
    torch.tensor([[3, 5, 4], [0, 7, 9]]),
    torch.tensor([[False, False, True]] * 2),
)


def loss_of(encoder, settings, batch, candidates):
    hidden = encoder.encode_at(batch.inputs, batch.positions)

    def score(tokens):
        return encoder.logits(encoder.output_vectors(hidden), tokens)

    return Cloze(settings, encoder.vocabulary).loss(hidden, batch.targets, candidates, score)


@pytest.mark.parametrize("objective", [Cloze, NextItem])
def test_validation_refuses_rows_that_end_in_padding(objective):
    with pytest.raises(ValueError, match="1 of 2 rows end in PAD or MASK"):
        objective(settings_of(), VocabularyDescription(13)).without_last(batch_of([3, PAD], [3, 4]))


def test_the_targets_are_positions_labels_and_the_distinct_ones():
    batch = predict_tokens(
        batch_of([0, 3, MASK], [MASK, 4, MASK]),
        torch.tensor([[0, 3, 9], [5, 4, 9]]),
        torch.tensor([[False, False, True], [True, False, True]]),
    )

    assert batch.positions.tolist() == [2, 3, 5]
    assert batch.n_targets == 3
    assert {name: target.tolist() for name, target in batch.targets.items()} == {
        "labels": [9, 5, 9],
        "positives": [5, 9],
        "columns": [1, 0, 1],
    }
    assert batch.to(torch.device("cpu")) is batch


def test_negatives_are_drawn_for_the_losses_that_need_some():
    vocabulary = VocabularyDescription(8)
    drawn = [Cloze(settings, vocabulary).draw_candidates(torch.Generator()) for settings in (FULL, SAMPLED, GBCE)]

    assert drawn[0] is None
    assert [len(negatives) for negatives in drawn[1:]] == [2048, 2048]


def test_negatives_are_uniform_items_and_never_special_tokens():
    settings = settings_of(**SHAPE, loss=LossSettings(name="sampled", n_negatives=50_000))
    drawn = Cloze(settings, VocabularyDescription(8)).draw_candidates(torch.Generator().manual_seed(7))
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
def test_large_vocabularies_use_the_sampled_softmax_unless_another_loss_is_named(name, n_items, expected):
    settings = settings_of(**SHAPE, loss=LossSettings(name=name, full_softmax_max_items=100))

    assert Cloze(settings, VocabularyDescription(FIRST_ITEM + n_items)).loss_name == expected


@pytest.mark.parametrize("settings", [FULL, SAMPLED])
def test_the_loss_sums_over_the_targets_whose_candidates_are_never_padding_or_mask(settings):
    encoder = transformer(settings, n_tokens=8).eval()
    with torch.no_grad():
        encoder.item_table.bias[:UNK] = 100.0
        encoder.item_table.bias[UNK] = 0.0 if settings is FULL else -1e4
    # with every item as a negative the sampled softmax is the full one over items
    candidates = None if settings is FULL else torch.arange(FIRST_ITEM, 8)
    loss = loss_of(encoder, settings, BATCH, candidates)

    vectors = encoder.output_vectors(encoder.encode(BATCH.inputs)[[0, 1, 1], [2, 0, 2]])
    logits = encoder.logits(vectors, torch.arange(FIRST_OUTPUT, 8))
    expected = F.cross_entropy(logits, torch.tensor([4, 5, 3]) - FIRST_OUTPUT, reduction="sum")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("table", ["full", "hashed", "product"])
@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_every_loss_learns_with_every_table(name, table):
    torch.manual_seed(7)
    shape = {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "max_length": 4}
    settings = settings_of(**shape, table=table, table_rows=8, table_splits=4, loss=LossSettings(name=name))
    encoder = transformer(settings, n_tokens=12).eval()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    candidates = None if name == "full" else torch.tensor([5, 6, 8, 11])
    losses = []
    for _ in range(20):
        loss = loss_of(encoder, settings, LAST_ONLY, candidates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.7 * losses[0]


def test_head_and_logits_see_the_chosen_positions_only(monkeypatch):
    encoder = transformer(FULL, n_tokens=12)
    shapes = []
    encoder.head.register_forward_hook(lambda head, inputs, output: shapes.append(output.shape))
    logits = encoder.logits
    monkeypatch.setattr(encoder, "logits", lambda vectors, ids: shapes.append(vectors.shape) or logits(vectors, ids))
    loss_of(encoder, FULL, LAST_ONLY, None)

    assert shapes == [(2, 2), (2, 2)]


@pytest.mark.parametrize("name", ["full", "sampled"])
def test_a_fresh_encoder_starts_at_the_loss_of_a_uniform_guess(name):
    torch.manual_seed(7)
    n_items = 5000
    settings = settings_of(n_layers=2, max_length=16, loss=LossSettings(name=name, n_negatives=1000))
    encoder = transformer(settings, n_tokens=FIRST_ITEM + n_items)
    generator = torch.Generator().manual_seed(7)
    token_ids = torch.randint(FIRST_ITEM, FIRST_ITEM + n_items, (32, 16), generator=generator)
    objective = Cloze(settings, encoder.vocabulary)
    batch = objective.prepare(batch_of(*token_ids.tolist()), generator)
    loss = loss_of(encoder, settings, batch, objective.draw_candidates(generator))

    assert loss.item() / batch.n_targets == pytest.approx(math.log(n_items + 1), rel=0.05)


def test_a_sparse_table_gets_gradients_in_the_rows_used_alone():
    encoder = transformer(SAMPLED, n_tokens=100, sparse_tables=True)
    batch = predict_tokens(batch_of([0, 7, MASK]), torch.tensor([[0, 7, 9]]), torch.tensor([[False, False, True]]))
    loss_of(encoder, SAMPLED, batch, torch.tensor([20, 21])).backward()

    item_grad, bias_grad = (parameter.grad for parameter in encoder.row_parameters())
    assert item_grad.is_sparse
    assert bias_grad.is_sparse
    assert item_grad.coalesce().indices()[0].tolist() == [MASK, 7, 9, 20, 21]
    assert bias_grad.coalesce().indices()[0].tolist() == [9, 20, 21]


@pytest.mark.parametrize(("settings", "candidates"), [(FULL, None), (SAMPLED, torch.tensor([5, 6, 5, 3]))])
def test_a_sparse_table_gets_the_dense_tables_gradient(settings, candidates):
    gradients = []
    for is_sparse in (False, True):
        torch.manual_seed(7)
        encoder = transformer(settings, n_tokens=12, sparse_tables=is_sparse).eval()
        loss_of(encoder, settings, LAST_ONLY, candidates).backward()
        gradients.append(encoder.item_table.weight.grad.to_dense())

    torch.testing.assert_close(*gradients)
