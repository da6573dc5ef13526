import math
from dataclasses import replace

import pytest
import torch
from small_encoders import settings_of, transformer
from torch import nn
from torch.overrides import TorchFunctionMode

from ml.data.sequence_batch import SequenceBatch
from ml.models.protocol import evaluating
from ml.objectives import ranking
from ml.objectives.cloze import Cloze
from schemas.tokens import FIRST_ITEM, UNK

SETTINGS = settings_of(hidden_size=4, n_layers=1, n_heads=1, feed_forward_size=4, max_length=4)


def rank_last_items(model, token_ids, *args, **kwargs):
    return ranking.rank_last_items(model, cloze_of(model), SequenceBatch(token_ids), *args, **kwargs)


def cloze_of(model):
    return Cloze(SETTINGS, model.vocabulary)


def hidden_at_last(model, token_ids):
    return model.encode(cloze_of(model).without_last(SequenceBatch(token_ids)))[:, -1]


class LargestResult(TorchFunctionMode):
    """Notes the size of the largest tensor that a call of torch gives."""

    n_numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.n_numbers = max(self.n_numbers, result.numel())
        return result


def model_that_scores(scores):
    """A model whose score of each token id is given, whatever the sequence."""
    model = transformer(SETTINGS, n_tokens=len(scores))
    with torch.no_grad():
        nn.init.zeros_(model.item_table.weight)
        model.item_table.bias.copy_(torch.tensor(scores).unsqueeze(1))
    return model


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 50])
def test_the_rank_counts_the_items_that_score_higher_in_any_chunks(chunk_size, monkeypatch):
    monkeypatch.setattr(ranking, "ITEMS_AT_ONCE", chunk_size)
    model = model_that_scores([9.0, 9.0, 9.0, 0.1, 0.4, 0.3, 0.2])
    ranks = rank_last_items(model, torch.tensor([[5, 3], [3, 4], [0, 5], [4, 6]]))

    assert ranks.tolist() == [4, 1, 2, 3]


@pytest.mark.parametrize("chunk_size", [2, 50])
def test_items_of_another_kind_do_not_compete(chunk_size, monkeypatch):
    kinds = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    monkeypatch.setattr(Cloze, "item_kinds", kinds)
    monkeypatch.setattr(ranking, "ITEMS_AT_ONCE", chunk_size)
    model = model_that_scores([9.0, 9.0, 9.0, 0.1, 0.4, 0.3, 0.2])
    ranks = rank_last_items(model, torch.tensor([[5, 3], [3, 4], [0, 5], [4, 6]]))

    assert ranks.tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize("table", ["full", "hashed", "product"])
@pytest.mark.parametrize("remove_seen", [False, True])
@pytest.mark.parametrize("chunk_size", [4, 50])
@pytest.mark.parametrize("rows_at_once", [4, 256])
def test_ranks_are_those_of_all_logits_at_once(monkeypatch, table, remove_seen, chunk_size, rows_at_once):
    monkeypatch.setattr(ranking, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(ranking, "ITEMS_AT_ONCE", chunk_size)
    torch.manual_seed(7)
    settings = settings_of(hidden_size=8, n_layers=1, n_heads=2, table=table, table_rows=999, table_splits=2)
    model = transformer(settings, n_tokens=20)
    rows = [[0, 0, 4, 5], [7, 8, 7, 9], [5, 4, UNK, 4], [3, 19, 19, 18], [6, 6, 6, 6], [0, 3, 4, UNK]]
    with evaluating(model):
        hidden = hidden_at_last(model, torch.tensor(rows))
        logits = model.logits(model.output_vectors(hidden), torch.arange(20))
    expected = []
    for row, scores in zip(rows, logits.tolist(), strict=True):
        removed = set(row[:-1]) - {row[-1]} if remove_seen else set()
        ranked = [item for item in range(FIRST_ITEM, 20) if item not in removed]
        better = [item for item in ranked if item != row[-1] and not scores[item] < scores[row[-1]] - 1e-7]
        expected.append(1 + len(better if row[-1] != UNK else ranked))

    left_out = torch.tensor(rows)[:, :-1] if remove_seen else None
    assert rank_last_items(model, torch.tensor(rows), left_out).tolist() == expected


@pytest.mark.parametrize("table", ["full", "hashed", "product"])
def test_scores_are_held_of_so_many_rows_at_once_however_many_a_batch_has(monkeypatch, table):
    monkeypatch.setattr(ranking, "ROWS_AT_ONCE", 16)
    settings = replace(SETTINGS, table=table, table_rows=99, table_splits=2)
    model = transformer(settings, n_tokens=400)
    with LargestResult() as largest:
        ranks = rank_last_items(model, torch.randint(FIRST_ITEM, 400, (300, 2)))

    assert ranks.shape == (300,)
    assert largest.n_numbers < 20 * 520  # of a product table's 2 x 259 parts; 300 x 300 and 300 x 397 before


def test_rows_of_one_token_have_seen_nothing():
    model, token_ids = model_that_scores([0.0] * 3 + [0.5, 0.4]), torch.tensor([[4]])
    assert rank_last_items(model, token_ids, left_out=token_ids[:, :-1]).tolist() == [2]


def test_items_that_a_client_has_are_left_out_though_its_row_holds_them_no_more():
    model = model_that_scores([0.0] * 3 + [0.5, 0.6, 0.7, 0.1])
    asked = torch.tensor([[3, 6], [3, 6]])
    left_out = torch.tensor([[3, 0, 0], [4, 5, 3]])
    assert rank_last_items(model, asked, left_out=left_out).tolist() == [3, 1]


def test_ties_count_against_the_item():
    model = model_that_scores([0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.1])

    assert rank_last_items(model, torch.tensor([[6, 3], [3, 6]])).tolist() == [3, 4]


def test_items_that_share_a_vector_count_against_each_other():
    torch.manual_seed(7)
    settings = replace(SETTINGS, hidden_size=64, table="hashed", table_rows=FIRST_ITEM + 4)
    model = transformer(settings, n_tokens=500)
    token_ids = torch.randint(FIRST_ITEM, 500, (200, 2))
    with evaluating(model):
        hidden = hidden_at_last(model, token_ids)
        table = model.item_table.vectors(torch.arange(500)).double()
        scores = model.output_vectors(hidden).double() @ table.T
    own = scores.gather(1, token_ids[:, -1:])
    expected = (scores[:, FIRST_ITEM:] > own - 1e-8).sum(dim=1)

    is_right = rank_last_items(model, token_ids) == expected
    assert is_right.double().mean() > 0.9  # products of two shapes may round otherwise now and then


def test_a_model_that_scores_not_a_number_ranks_last():
    model = model_that_scores([0.0] * 3 + [math.nan] * 4)

    assert rank_last_items(model, torch.tensor([[6, 3]])).tolist() == [4]


def test_an_item_does_not_beat_itself_by_rounding(monkeypatch):
    model = model_that_scores([0.0, 0.0, 0.0, 0.5, 0.4])
    own_logits = model.logits  # from a product of another shape
    monkeypatch.setattr(model, "logits", lambda vectors, ids: own_logits(vectors, ids) + 1e-6)

    assert rank_last_items(model, torch.tensor([[4, 3]])).tolist() == [1]


def test_an_unknown_last_item_ranks_after_every_item():
    model = model_that_scores([9.0, 9.0, 9.0, 0.1, 0.2])

    assert rank_last_items(model, torch.tensor([[3, UNK]])).tolist() == [3]


def test_the_encoder_does_not_see_the_last_item():
    torch.manual_seed(7)
    model = transformer(SETTINGS, n_tokens=30)
    last_items = torch.arange(FIRST_ITEM, 30)
    token_ids = torch.stack([torch.full_like(last_items, 5), last_items], dim=1)

    # one context, every possible last item: blind to it, the model gives every rank once
    assert sorted(rank_last_items(model, token_ids).tolist()) == list(range(1, 28))


def test_ranking_leaves_the_models_mode_alone():
    model = model_that_scores([0.0] * 5).train()
    rank_last_items(model, torch.tensor([[3, 4]]))

    assert model.training
