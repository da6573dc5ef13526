"""The rows of item tables that one step uses, as dense tensors whose shape hardly ever changes.

A sparse gradient has as many rows as a batch has different tokens: to know their number is to wait for the device, and
no compiler takes one. Here a step's rows are gathered beforehand, gradients are dense in these, and row-wise Adam puts
them back.

Legend of shapes: V rows of a table, C its columns, N rows of a window: as many as a step asks for, repeated ones
included, or more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.models.item_embeddings import ItemTable, Window
from ml.models.protocol import SequenceEncoder
from schemas.tokens import PAD

RowGradient = tuple[nn.Parameter, Tensor, Tensor]
"""A table's parameter [V, C], some of its rows int64 [N], and the gradient of these, float [N, C]."""


class RowWindow:
    """Stands in for an encoder's sparse tables while a step computes its loss.

    Parameters
    ----------
    encoder : ``fits``
    """

    def __init__(self, encoder: SequenceEncoder) -> None:
        # of all steps of one shape the same tensors: a recorded CUDA graph reads and writes where they were
        self._windows: dict[ItemTable, Window] = {}
        self._rows: dict[ItemTable, Tensor] = {}
        self._tables = _sparse_tables(encoder)

    @staticmethod
    def fits(encoder: SequenceEncoder) -> bool:
        """Whether a window can stand in for all tables that get sparse gradients."""
        tables = _sparse_tables(encoder)
        owned = {id(parameter) for table in tables for parameter in table.row_parameters()}
        return bool(tables) and owned == {id(parameter) for parameter in encoder.row_parameters()}

    @torch.no_grad()
    def open(self, tokens: Tensor) -> None:
        """Have the tables answer from the rows of ``tokens`` (int64 [n]) and PAD alone, until ``close``."""
        for table in self._tables:
            n_rows = len(table.weight)
            ids = distinct(F.pad(table.rows(tokens).flatten(), (1, 0), value=PAD), n_rows)  # PAD's row 0 is the first
            window = self._windows.get(table)
            size = 0 if window is None else len(window.ids)
            if len(ids) > size:
                # rows of their own ask for another number at each step, and each size is another graph to compile:
                # a window never shrinks, and grows with room
                size = len(ids) if window is None else len(ids) * 5 // 4
            size = min(size, n_rows)  # no more rows than these can differ
            # cut or filled: past the last different row stands n_rows, which no table has
            ids = F.pad(ids, (0, size - len(ids)), value=n_rows)
            rows = self._rows[table] = torch.where(ids < n_rows, ids, PAD)
            if window is None or len(window.ids) != size:
                weight, *bias = [nn.Parameter(p.new_empty(size, p.shape[1])) for p in table.row_parameters()]
                # no view: it is written to by the next steps
                window = self._windows[table] = Window(ids.clone(), weight, bias[0] if bias else None)
            window.ids.copy_(ids)
            for parameter, stand_in in _pairs(table, window):
                # to the data: ``out`` takes no tensor that wants gradients
                torch.index_select(parameter, 0, rows, out=stand_in.data)
                stand_in.grad = None
            table.window = window

    def close(self) -> list[RowGradient]:
        """Have the tables answer from all of their rows again; gives the gradients of those that were used.

        Rows rise and are different ones but for row 0, which stands for those that are fewer than N; its gradient is 0,
        and so is that of a row of which a table was not asked.
        """
        gradients = []
        for table in self._tables:
            table.window = None
            for parameter, stand_in in _pairs(table, self._windows[table]):
                if stand_in.grad is not None:
                    gradients.append((parameter, self._rows[table], stand_in.grad))
        return gradients


def _sparse_tables(encoder: SequenceEncoder) -> list[ItemTable]:
    return [module for module in encoder.modules() if isinstance(module, ItemTable) and module.is_sparse]


def _pairs(table: ItemTable, window: Window) -> list[tuple[nn.Parameter, nn.Parameter]]:
    stand_ins = (window.weight, window.bias)
    return list(zip(table.row_parameters(), (each for each in stand_ins if each is not None), strict=True))


def distinct(rows: Tensor, n_rows: int) -> Tensor:
    """The different ones of ``rows`` (int64 [N]), rising, and ``n_rows`` in what is left, int64 [N]."""
    ordered = rows.sort().values
    is_new = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    return torch.full_like(ordered, n_rows).scatter_(0, is_new.cumsum(0) - 1, ordered)
