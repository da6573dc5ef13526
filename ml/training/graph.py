"""Trains vectors of a graph on one rank, which holds and updates the clients of its own share alone."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Adam, Optimizer

from conf.graph import GraphSettings
from ml.data.edges import EdgeShare
from ml.models.graph import EdgeModel, vector_table
from ml.training.distributed import Ranks
from ml.training.optimizers import RowAdam
from ml.training.step import mix_seed
from schemas.errors import TrainingError


def train_clients(
    share: EdgeShare,
    n_items: int,
    n_relations: int,
    settings: GraphSettings,
    ranks: Ranks,
    device: torch.device,
    note_step: Callable[[], None] = lambda: None,
    given: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], list[float]]:
    """The unit vectors of the share's clients, float32 [N, D], and the mean loss of each epoch, of all ranks.

    A step exchanges the rows of its items, and relations, scale and bias; a client's row is met by its own rank alone.
    Ranks take equal numbers of steps.

    Parameters
    ----------
    given : float32 [V, E], vectors of the items, where they are not learnt; the same on every rank

    Raises
    ------
    TrainingError
        If the loss stops being a number.
    """
    # each rank fills in its own number, and zeros elsewhere: the sum is all numbers
    n_edges = ranks.sum(len(share.targets) * (np.arange(ranks.world_size) == ranks.rank))
    n_steps = int(np.ceil(n_edges.max() / settings.edges_per_batch))
    # each rank draws its own clients; of items and relations the broadcast leaves rank 0's draws
    torch.manual_seed(mix_seed(settings.seed, ranks.rank))
    of_items = None if given is None else torch.from_numpy(given)
    model = EdgeModel(n_items, n_relations, settings, of_items).to(device)
    clients = vector_table(len(share.client_ids), settings).to(device)
    ranks.broadcast(model)
    tables = [table for table in (model.items, clients) if isinstance(table, nn.Embedding)]
    rows = {id(table.weight) for table in tables}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in rows]
    optimizers: list[Optimizer] = [Adam(dense, settings.learning_rate)]
    optimizers += [RowAdam([table.weight], settings.learning_rate) for table in tables]
    losses = []
    for epoch in range(settings.epochs):
        total = torch.zeros((), device=device)
        generator = np.random.default_rng((settings.seed, epoch, ranks.rank))
        for batch in share.batches(n_steps, generator):
            own, targets, is_edge = (torch.from_numpy(array).to(device) for array in batch)
            model.zero_grad()
            clients.zero_grad()
            loss = model.loss(clients(own), targets, is_edge)
            (loss * (n_steps / n_edges.sum())).backward()  # the mean over the edges of a step of all ranks
            ranks.sum_gradients(model.parameters())
            for optimizer in optimizers:
                optimizer.step()
            total += loss.detach()
            note_step()
        losses.append(float(ranks.sum([float(total)])[0] / n_edges.sum()))
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"graph: the loss of epoch {epoch + 1} is {losses[-1]}; lower graph.learning_rate "
                f"({settings.learning_rate})"
            )
    vectors = clients.weight.detach()
    # training sees cosines alone: lengths mean nothing
    vectors /= vectors.norm(dim=1, keepdim=True)
    return vectors.cpu().numpy(), losses
