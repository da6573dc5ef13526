"""Rows without padding, and the padded grid that attention needs.

On a CPU the encoder computes on the rows of real tokens alone; only attention sees a grid. On other devices, where
to count tokens would halt the queue of kernels, and under torch.compile, every position of the grid is a row.

Legend of shapes: B batch, W width of the grid, N rows, C columns of a row, H heads, P parts (key and value are two).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def leaves_padding_out(tensor: Tensor) -> bool:
    """Whether padding is left out where ``tensor`` is."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


class Grid:
    """Where N rows stand in a grid of B x W positions.

    Parameters
    ----------
    positions : int64 [N], rising, in the flattened grid; None where each position has its row
    may_repeat : positions may come several times and in any order; then ``rows_at`` and ``spread`` make no sense
    """

    def __init__(self, positions: Tensor | None, height: int, width: int, may_repeat: bool = False) -> None:
        self.positions, self.height, self.width, self.may_repeat = positions, height, width, may_repeat
        self._indices: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # one for all layers

    @property
    def is_full(self) -> bool:
        """Whether each position is known to hold a token; where padding is not left out, nobody looked."""
        return self.positions is not None and len(self.positions) == self.height * self.width

    def rows_at(self, positions: Tensor) -> Tensor:
        """Int64 [M], the row that stands at each of ``positions`` (int64 [M], flat; each must have one)."""
        return positions if self.positions is None else torch.searchsorted(self.positions, positions)

    def spread(self, rows: Tensor) -> Tensor:
        """Float [B, W, C], the rows (float [N, C]) at their positions, zeros at the others."""
        if self.positions is not None:
            empty = rows.new_zeros(self.height * self.width, rows.shape[1])
            rows = empty.index_copy_(0, self.positions, rows)
        return rows.view(self.height, self.width, -1)

    def collect(self, grid: Tensor) -> Tensor:
        """Float [N, C], what stands at the rows' positions of a grid (float [B, W, C])."""
        rows = grid.flatten(0, 1)
        return rows if self.positions is None else rows.index_select(0, self.positions)

    def heads(self, rows: Tensor, n_parts: int, n_heads: int) -> Tensor:
        """Float [P, B, H, W, C / P / H] from rows float [N, C]; zeros at empty positions."""
        if self.positions is None or not leaves_padding_out(rows):
            return self.spread(rows).unflatten(-1, (n_parts, n_heads, -1)).permute(2, 0, 3, 1, 4)
        to_grid, to_rows = self._index(self.positions, n_parts, n_heads)
        vectors = _Take.apply(rows.reshape(len(to_rows), -1), to_grid, to_rows)
        return vectors.view(n_parts, self.height, n_heads, self.width, -1)

    def merge(self, heads: Tensor) -> Tensor:
        """Float [N, C], the rows of a grid of heads float [B, H, W, C / H]; what stands at empty positions is lost."""
        if self.positions is None or self.may_repeat or not leaves_padding_out(heads):
            return self.collect(heads.transpose(1, 2).flatten(2))
        to_grid, to_rows = self._index(self.positions, 1, heads.shape[1])
        return _Take.apply(heads.flatten(0, 2), to_rows, to_grid).view(len(self.positions), -1)

    def _index(self, positions: Tensor, n_parts: int, n_heads: int) -> tuple[Tensor, Tensor]:
        """How the head vectors of rows [N, P, H] and of a grid [P, B, H, W] are taken from each other.

        Returns
        -------
        int64 [P * B * H * W], the flat number of a row's vector, N * P * H where the grid is empty; int64 [N * P * H],
        the flat number of a grid's vector
        """
        if (n_parts, n_heads) not in self._indices:
            line, column = positions // self.width, positions % self.width
            part, head = torch.arange(n_parts).unsqueeze(1), torch.arange(n_heads)
            of_part_and_head = (part * self.height * n_heads + head) * self.width  # [P, H]
            to_rows = ((line * n_heads * self.width + column)[:, None, None] + of_part_and_head).flatten()
            to_grid = torch.full((n_parts * n_heads * self.height * self.width,), len(to_rows))
            to_grid[to_rows] = torch.arange(len(to_rows))
            self._indices[n_parts, n_heads] = to_grid, to_rows
        return self._indices[n_parts, n_heads]


class _Take(Function):
    """Take vectors by ``index``; each is taken once at most, so that the gradient is taken by the ``inverse``.

    The backward of torch's own ``index_select`` adds the gradients up one by one.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return _take(vectors, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _take(gradient, *ctx.saved_tensors), None, None


def _take(vectors: Tensor, index: Tensor) -> Tensor:
    if len(index) > len(vectors):  # a grid with empty positions, whose number is one past the last vector's
        vectors = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
    return vectors.index_select(0, index)


def grid_of_tokens(is_token: Tensor, segments: Tensor | None = None) -> Grid:
    """The grid of the tokens in a batch; ``is_token`` is bool [B, W], ``segments`` as of a ``SequenceBatch``."""
    # rows that sequences share have hardly any padding to leave out
    is_narrowed = segments is None and leaves_padding_out(is_token)
    return Grid(is_token.flatten().nonzero().squeeze(1) if is_narrowed else None, *is_token.shape)


def narrow_grid(positions: Tensor, height: int, width: int) -> Grid:
    """A narrow grid of the rows at ``positions`` (int64 [M], rising, flat in B x W), where padding is left out.

    A row keeps its line there, and lines keep the order of their rows.
    """
    line = positions // width
    counts = torch.bincount(line, minlength=height)  # [B]
    # to know the widest line waits for the tokens, which costs nothing on a CPU; elsewhere grids are not narrowed
    narrow = int(counts.max()) if len(positions) else 1
    number_in_line = torch.arange(len(positions)) - (counts.cumsum(0) - counts)[line]
    return Grid(line * narrow + number_in_line, height, narrow)


def visible_positions(is_token: Tensor, segments: Tensor | None, is_causal: bool) -> Tensor:
    """Which tokens of its row each position may attend to, bool [B, 1, W, W]; any sees itself, PAD too.

    Parameters
    ----------
    is_token : bool [B, W]
    segments : as of a ``SequenceBatch``: tokens of another sequence are not visible
    is_causal : nor are those after it
    """
    width = is_token.shape[1]
    is_visible = is_token[:, None, :].expand(-1, width, -1)
    if segments is not None:
        is_visible = is_visible & (segments[:, :, None] == segments[:, None, :])
    if is_causal:
        is_visible = is_visible.tril()
    # a softmax of nothing would be no number
    return (is_visible | torch.eye(width, dtype=torch.bool, device=is_token.device))[:, None]
