"""TwHIN (El-Kishky et al. 2022, arXiv:2202.05387): vectors of clients and items whose cosines tell edges.

Legend of shapes: B edges of a batch, V items, R relations, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.graph import GraphSettings
from ml.models.item_embeddings import INIT_STD


class GivenVectors(nn.Module):
    """Items by vectors of an encoder, which stay as they are, and a projection of these, which is learnt.

    Parameters
    ----------
    vectors : float32 [V, E]; zeros of an item that the encoder does not know
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, width: int) -> None:
        super().__init__()
        # not persistent: all ranks read them, and none needs those of rank 0
        self.register_buffer("vectors", F.normalize(vectors, dim=1), persistent=False)
        self.projection = nn.Linear(vectors.shape[1], width, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Float [B, D] of int64 [B]."""
        projected: Tensor = self.projection(self.vectors[numbers])
        return projected


class EdgeModel(nn.Module):
    """What tells edges from others, but for the clients: a vector per item and relation, and how logits are scaled.

    Its gradients of learnt items are sparse.

    Parameters
    ----------
    given : float32 [V, E], see ``GivenVectors``; None has the items' vectors learnt
    """

    def __init__(self, n_items: int, n_relations: int, settings: GraphSettings, given: Tensor | None = None) -> None:
        super().__init__()
        width = settings.dimensions
        self.items = vector_table(n_items, settings) if given is None else GivenVectors(given, width)
        self.relations = nn.Parameter(torch.randn(n_relations, width) * INIT_STD)
        self.scale = nn.Parameter(torch.tensor(settings.scale))
        self.bias = nn.Parameter(torch.tensor(settings.bias))

    def loss(self, clients: Tensor, targets: Tensor, is_edge: Tensor) -> Tensor:
        """``edge_loss`` of vectors of clients, float [B, D], and targets, int64 [B]: item * R + relation."""
        n_relations = len(self.relations)
        ends = self.items(targets // n_relations) + self.relations[targets % n_relations]  # [B, D]
        cosines = F.normalize(clients, dim=1) @ F.normalize(ends, dim=1).T  # [B, B]
        return edge_loss(self.scale * cosines + self.bias, is_edge)


def vector_table(n_rows: int, settings: GraphSettings) -> nn.Embedding:
    """A vector per row, drawn from torch's global generator, with sparse gradients."""
    table = nn.Embedding(n_rows, settings.dimensions, sparse=True)
    nn.init.normal_(table.weight, std=INIT_STD)
    return table


def edge_loss(logits: Tensor, is_edge: Tensor) -> Tensor:
    """Cross-entropy of edges against the other pairs of their batch, summed over the edges.

    The negatives weigh as much as the positives together (Twitter's configuration): B - 1 of them against one would
    teach every pair to be none.

    Parameters
    ----------
    logits : float [B, B], of client i and target j; edge i is on the diagonal
    is_edge : bool [B, B], the pairs that have an edge: they are no negatives
    """
    positives = F.softplus(-logits.diagonal()).sum()
    negatives = F.softplus(logits).masked_fill(is_edge, 0.0).sum()
    # clamped: a batch in which all pairs are edges has no negatives
    return positives + negatives * (len(logits) / (~is_edge).sum().clamp(min=1))
