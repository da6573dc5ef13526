import numpy as np
import pytest
import torch
from small_encoders import settings_of, transformer

from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.inference import top_k
from ml.inference.top_k import nearest_items, next_items
from ml.models.transformer import Transformer
from ml.objectives.cloze import Cloze
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import Objective
from ml.objectives.ranking import rank_last_items

SETTINGS = settings_of(hidden_size=2, n_layers=1, n_heads=1, feed_forward_size=2)
# tokens 3 to 7; the length of a vector must not count
ITEMS = torch.tensor([[1.0, 0.0], [5.0, 1.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 1.0]])


@pytest.fixture
def model() -> Transformer:
    made = transformer(SETTINGS, n_tokens=8)
    with torch.no_grad():
        made.item_table.weight[3:] = ITEMS
    return made


def test_neighbours_come_by_falling_cosine_without_the_item_itself(model: Transformer):
    items, similarity = nearest_items(model, torch.tensor([3, 6]), k=2)
    assert items.tolist() == [[4, 5], [5, 7]]
    torch.testing.assert_close(similarity, torch.tensor([[5 / 26**0.5, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5])
def test_equals_come_by_token_id_and_chunks_change_nothing(
    model: Transformer, chunk_size: int, monkeypatch: pytest.MonkeyPatch
):
    expected, _ = nearest_items(model, torch.tensor([3, 4, 5]), k=3)
    monkeypatch.setattr(top_k, "ITEMS_AT_ONCE", chunk_size)
    items, _ = nearest_items(model, torch.tensor([3, 4, 5]), k=3)
    assert items.tolist() == expected.tolist() == [[4, 5, 7], [3, 5, 7], [7, 4, 3]]


def test_more_neighbours_than_items_gives_all_others(model: Transformer):
    items, similarity = nearest_items(model, torch.tensor([3]), k=50)
    assert items.tolist() == [[4, 5, 7, 6]]
    assert torch.isfinite(similarity).all()


@pytest.mark.parametrize("token_id", [2, 8])
def test_a_token_that_is_no_item_of_the_model_is_refused(model: Transformer, token_id: int):
    with pytest.raises(ValueError, match=rf"3 to 7, found {token_id}"):
        nearest_items(model, torch.tensor([3, token_id]))


@pytest.mark.parametrize("table", ["hashed", "product"])
def test_compact_tables_have_neighbours_too(table: str):
    settings = settings_of(hidden_size=8, n_layers=1, n_heads=1, feed_forward_size=8, table=table, table_rows=50)
    model = transformer(settings, n_tokens=30)
    items, _ = nearest_items(model, torch.tensor([3, 4]), k=5)
    assert items.shape == (2, 5)
    assert not (items == torch.tensor([[3], [4]])).any()


@pytest.mark.parametrize(("objective", "attention"), [(Cloze, "bidirectional"), (NextItem, "causal")])
@pytest.mark.parametrize(("with_seen", "chunk_size"), [(True, 50), (True, 3), (False, 4)])
def test_next_items_come_in_the_order_that_validation_ranks_them_in(
    objective: type[Objective], attention: str, with_seen: bool, chunk_size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(top_k, "ITEMS_AT_ONCE", chunk_size)
    torch.manual_seed(0)
    settings = settings_of(hidden_size=8, n_layers=1, n_heads=1, feed_forward_size=8, max_length=5, attention=attention)
    model, k = transformer(settings, n_tokens=12), 4
    asked = objective(settings, model.vocabulary)
    rows = [[3], [4, 5, 6], [11, 2, 7, 7, 3, 9]]
    items, scores = next_items(model, asked, Sequences.from_rows(rows), k, with_seen)
    assert (np.diff(scores, axis=1) < 0).all()
    for row, found in zip(rows, items.tolist(), strict=True):
        for position, item in enumerate(found, start=1):
            batch = SequenceBatch(torch.tensor([[*row[-4:], item]]))
            rank = rank_last_items(model, asked, batch, left_out=None if with_seen else batch.token_ids[:, :-1])
            assert rank.item() == position
            assert with_seen or item not in row[-4:]


@pytest.mark.parametrize("chunk_size", [5, 2])
def test_of_items_that_score_alike_those_of_lower_token_ids_are_next(chunk_size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(top_k, "ITEMS_AT_ONCE", 40 * chunk_size)
    model = transformer(SETTINGS, n_tokens=200)
    torch.nn.init.zeros_(model.item_table.weight)
    asked = Sequences.from_rows([[9, 3], [4]])
    items, _ = next_items(model, Cloze(SETTINGS, model.vocabulary), asked, k=4, with_seen=False)
    assert items.tolist() == [[4, 5, 6, 7], [3, 5, 6, 7]]


def test_where_a_sequence_holds_the_other_items_there_are_fewer(model: Transformer):
    seen = Sequences.from_rows([[3, 4, 5, 6], [7]])
    items, _ = next_items(model, Cloze(SETTINGS, model.vocabulary), seen, k=9, with_seen=False)
    assert items[0].tolist() == [7, -1, -1, -1, -1]
    assert sorted(items[1].tolist()) == [-1, 3, 4, 5, 6]


@torch.no_grad()
def test_next_items_follow_from_all_tokens_that_leave_room_for_one():
    torch.manual_seed(0)
    small = {"hidden_size": 8, "n_layers": 1, "n_heads": 1, "feed_forward_size": 8, "max_length": 4}
    settings = settings_of(**small, attention="causal")
    model = transformer(settings, n_tokens=12).eval()
    _, scores = next_items(model, NextItem(settings, model.vocabulary), Sequences.from_rows([[4, 5, 6, 7]]), k=9)
    hidden = model.encode(SequenceBatch(torch.tensor([[5, 6, 7]])))[:, -1]
    expected = model.logits_between(model.output_vectors(hidden), 3, 12).sort(descending=True).values
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-7)
