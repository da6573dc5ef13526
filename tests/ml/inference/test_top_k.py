import pytest
import torch
from small_encoders import settings_of, transformer

from ml.inference.top_k import nearest_items
from ml.models.transformer import Transformer

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
def test_equals_come_by_token_id_and_chunks_change_nothing(model: Transformer, chunk_size: int):
    expected, _ = nearest_items(model, torch.tensor([3, 4, 5]), k=3)
    items, _ = nearest_items(model, torch.tensor([3, 4, 5]), k=3, chunk_size=chunk_size)
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
