"""The rows of item tables that one step uses, as dense tensors of a constant shape.

A sparse gradient has as many rows as a batch has different tokens: to know their number is to wait for the device, and
no compiler takes one. Here a step's rows are gathered beforehand, gradients are dense in these, and row-wise Adam puts
them back.

Legend of shapes: V tokens, D hidden, N tokens of a step, repeated ones included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.models.item_embeddings import FullTable
from ml.models.protocol import SequenceEncoder
from schemas.tokens import PAD

RowGradient = tuple[nn.Parameter, Tensor, Tensor]
"""A table's parameter [V, C], some of its rows int64 [N], and the gradient of these, float [N, C]."""


class RowWindow:
    """Stands in for an encoder's full tables while a step computes its loss.

    Parameters
    ----------
    encoder : all its ``row_parameters`` are those of full tables
    """

    def __init__(self, encoder: SequenceEncoder) -> None:
        self._tables = [module for module in encoder.modules() if isinstance(module, FullTable)]
        # of all steps the same tensors: a recorded CUDA graph reads and writes where they were
        self._windows: dict[int, nn.Parameter] = {}
        self._rows = torch.empty(0, dtype=torch.int64)

    @staticmethod
    def fits(encoder: SequenceEncoder) -> bool:
        """Whether a window can stand in for all tables that have a row per token."""
        tables = [module for module in encoder.modules() if isinstance(module, FullTable)]
        owned = {id(parameter) for table in tables for parameter in table.row_parameters()}
        return bool(tables) and owned == {id(parameter) for parameter in encoder.row_parameters()}

    @torch.no_grad()
    def open(self, tokens: Tensor) -> None:
        """Have the tables answer from the rows of ``tokens`` (int64 [N]) and PAD alone, until ``close``."""
        n_tokens = len(self._tables[0].weight)
        ids = distinct_tokens(F.pad(tokens, (1, 0), value=PAD), n_tokens)  # PAD is the first
        # past the last different token stands n_tokens, for which no table has a row
        self._rows = torch.where(ids < n_tokens, ids, PAD)
        for table in self._tables:
            table.window = (ids, self._gather(table.weight), None if table.bias is None else self._gather(table.bias))

    def _gather(self, table: nn.Parameter) -> nn.Parameter:
        window = self._windows.get(id(table))
        if window is None or len(window) != len(self._rows):
            window = self._windows[id(table)] = nn.Parameter(table.new_empty(len(self._rows), table.shape[1]))
        # to the data: ``out`` takes no tensor that wants gradients
        torch.index_select(table, 0, self._rows, out=window.data)
        window.grad = None
        return window

    def close(self) -> list[RowGradient]:
        """Have the tables answer from all of their rows again; gives the gradients of those that were used.

        Rows rise and are different ones but for PAD, which stands for those that are fewer than N; its gradient is 0,
        and so is that of a row of which a table was not asked.
        """
        gradients = []
        for table in self._tables:
            table.window = None
            for parameter in table.row_parameters():
                gradient = self._windows[id(parameter)].grad
                if gradient is not None:
                    gradients.append((parameter, self._rows, gradient))
        return gradients


def distinct_tokens(tokens: Tensor, n_tokens: int) -> Tensor:
    """The different ones of ``tokens`` (int64 [N]), rising, and ``n_tokens`` in what is left, int64 [N]."""
    ordered = tokens.sort().values
    is_new = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    return torch.full_like(ordered, n_tokens).scatter_(0, is_new.cumsum(0) - 1, ordered)
