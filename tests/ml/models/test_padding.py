import pytest
import torch

from ml.models import padding
from ml.models.padding import Grid, grid_of_tokens, narrow_grid

IS_TOKEN = torch.tensor([[False, True, True], [False, False, False], [True, True, True]])
ROWS = torch.arange(5 * 8, dtype=torch.float64).view(5, 8) + 1


def expected_grid():
    grid = torch.zeros(3, 3, 8, dtype=torch.float64)
    grid[IS_TOKEN] = ROWS
    return grid


def test_rows_stand_at_the_tokens_positions_and_come_back():
    grid = grid_of_tokens(IS_TOKEN)

    assert torch.equal(grid.spread(ROWS), expected_grid())
    assert torch.equal(grid.collect(grid.spread(ROWS)), ROWS)
    assert grid.rows_at(torch.tensor([2, 6, 8])).tolist() == [1, 2, 4]
    assert not grid.is_full
    assert grid_of_tokens(torch.ones(2, 2, dtype=torch.bool)).is_full


@pytest.mark.parametrize("leaves_out", [True, False])
@pytest.mark.parametrize(("n_parts", "n_heads"), [(1, 2), (2, 2), (2, 1)])
def test_heads_are_the_grid_cut_by_parts_and_heads(monkeypatch, leaves_out, n_parts, n_heads):
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: leaves_out)
    heads = Grid(IS_TOKEN.flatten().nonzero().squeeze(1), 3, 3).heads(ROWS, n_parts, n_heads)

    assert torch.equal(heads, expected_grid().view(3, 3, n_parts, n_heads, -1).permute(2, 0, 3, 1, 4))


@pytest.mark.parametrize("leaves_out", [True, False])
def test_merged_heads_are_the_rows_again(monkeypatch, leaves_out):
    monkeypatch.setattr(padding, "leaves_padding_out", lambda tensor: leaves_out)
    grid = Grid(IS_TOKEN.flatten().nonzero().squeeze(1), 3, 3)

    assert torch.equal(grid.merge(grid.heads(ROWS, 1, 4)[0]), ROWS)


def test_gradients_go_where_the_rows_came_from():
    grid = grid_of_tokens(IS_TOKEN)
    rows, heads = ROWS.clone().requires_grad_(), torch.randn(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda rows: grid.heads(rows, 2, 2), rows)
    assert torch.autograd.gradcheck(grid.merge, heads)


def test_a_grid_where_every_position_is_a_row_needs_no_index():
    grid, rows = Grid(None, 2, 3), torch.randn(6, 4)

    assert not grid.is_full  # nobody looked
    assert torch.equal(grid.spread(rows), rows.view(2, 3, 4))
    assert torch.equal(grid.merge(grid.heads(rows, 1, 2)[0]), rows)


def test_a_narrow_grid_keeps_lines_and_their_order():
    grid = narrow_grid(torch.tensor([1, 2, 6, 7, 8, 11]), height=4, width=3)

    assert (grid.height, grid.width) == (4, 3)
    assert grid.positions.tolist() == [0, 1, 6, 7, 8, 9]


def test_no_rows_make_an_empty_narrow_grid():
    grid = narrow_grid(torch.tensor([], dtype=torch.int64), height=2, width=3)

    assert grid.spread(torch.ones(0, 4)).sum() == 0
