import pytest
import torch
from small_encoders import settings_of

from conf.encoders import ModelSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_embeddings import N_CODES, ProductTable
from ml.models.item_encoder import build_table
from schemas.errors import ConfigError
from schemas.tokens import FIRST_ITEM, MASK, PAD, UNK

N_TOKENS = 40
KINDS = ("full", "hashed", "product")


def table_of(kind, n_tokens=N_TOKENS, is_sparse=False):
    torch.manual_seed(7)
    settings = settings_of(hidden_size=16, n_heads=2, table=kind, table_rows=13, table_splits=4)
    table = build_table(settings, VocabularyDescription(n_tokens), is_sparse)
    table.initialise()
    return table


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_products_with_the_candidates_vectors(kind):
    table, vectors = table_of(kind), torch.randn(5, 16)
    candidates = torch.tensor([UNK, 3, 39, 3, 17])

    torch.testing.assert_close(table.scores(vectors, candidates), vectors @ table.vectors(candidates).T)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_range_are_a_part_of_all_scores(kind):
    table, vectors = table_of(kind), torch.randn(5, 16)
    if kind == "full":
        torch.nn.init.normal_(table.bias)

    scores = table.scores(vectors, torch.arange(N_TOKENS))
    torch.testing.assert_close(table.scores_between(vectors, 3, 17), scores[:, 3:17])


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_have_the_shape_of_the_ids_and_start_with_a_spread_of_two_hundredths(kind):
    vectors = table_of(kind, n_tokens=3000).vectors(torch.arange(FIRST_ITEM, 2999).view(4, -1))

    assert vectors.shape == (4, 749, 16)
    assert vectors.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_padding_vector_is_zero_and_gets_no_gradient(kind):
    table = table_of(kind)
    vectors = table.vectors(torch.tensor([[PAD, 5]]))
    vectors.square().sum().backward()
    alone = table_of(kind)
    alone.vectors(torch.tensor([5])).square().sum().backward()

    assert (vectors[0, 0] == 0).all()
    assert torch.equal(table.weight.grad, alone.weight.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_share_nothing_with_items_or_each_other(kind):
    table = table_of(kind)
    items = torch.arange(FIRST_ITEM, N_TOKENS)
    before = table.vectors(items), table.vectors(torch.tensor([UNK]))
    table.vectors(torch.tensor([MASK])).sum().backward()
    with torch.no_grad():
        table.weight -= table.weight.grad

    assert torch.equal(table.vectors(items), before[0])
    assert torch.equal(table.vectors(torch.tensor([UNK])), before[1])


@pytest.mark.parametrize("kind", ["hashed", "product"])
def test_a_compact_table_is_small_dense_and_has_no_parameter_per_token(kind):
    small, large = table_of(kind), table_of(kind, n_tokens=5000, is_sparse=True)
    large.vectors(torch.tensor([5])).sum().backward()

    assert small.weight.shape == large.weight.shape
    assert list(large.row_parameters()) == []
    assert not large.is_sparse
    assert not large.weight.grad.is_sparse


@pytest.mark.parametrize("kind", ["hashed", "product"])
def test_items_of_a_compact_table_differ_and_use_all_of_it(kind):
    table = table_of(kind, n_tokens=2000)
    few = table.vectors(torch.arange(FIRST_ITEM, FIRST_ITEM + 8))
    table.vectors(torch.arange(UNK, 2000)).sum().backward()
    is_used = (table.weight.grad != 0).any(dim=1)

    assert len(few.unique(dim=0)) == 8
    assert is_used.sum() >= 0.98 * (len(is_used) - FIRST_ITEM)


@pytest.mark.parametrize("kind", ["hashed", "product"])
def test_which_rows_an_item_has_does_not_depend_on_the_seed(kind):
    first = table_of(kind)
    torch.manual_seed(8)
    second = table_of(kind)
    second.load_state_dict(first.state_dict())
    ids = torch.arange(N_TOKENS)

    assert torch.equal(first.vectors(ids), second.vectors(ids))


def test_an_items_vector_is_its_codes_parts_one_after_the_other():
    table = ProductTable(6, 4, n_splits=2)
    with torch.no_grad():
        table.weight.copy_(torch.arange(2 * (FIRST_ITEM + N_CODES)).unsqueeze(1).expand(-1, 2))
    table.codes[4] = torch.tensor([7, 255])

    first, second = FIRST_ITEM + 7, (FIRST_ITEM + N_CODES) + FIRST_ITEM + 255
    assert table.vectors(torch.tensor(4)).tolist() == [first, first, second, second]
    assert table.codes.dtype == torch.uint8


def test_a_product_tables_splits_must_divide_its_width():
    with pytest.raises(ConfigError, match="divisible by table_splits"):
        ModelSettings(hidden_size=20, n_heads=2, table="product", table_splits=8)
