"""Trains the network of interactions; the same function runs in one process or as one of several ranks."""

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from conf.interactions import InteractionSettings
from ml.data.counter_rows import NUMBERS, CounterFeed, CounterRows, RowLayout, read_tables, unpack_numbers
from ml.data.row_groups import Reader
from ml.data.sharding import FeedFile
from ml.models.interactions import InteractionNetwork, fit_knots
from ml.objectives.interactions import label_loss, view_loss
from ml.training.distributed import Ranks
from ml.training.stall_watch import StallWatch
from ml.training.step import mix_seed
from schemas.errors import TrainingError

ROWS_OF_KNOTS = 20_000
"""Training rows that the bins are fitted to, the first of the files, whose order says nothing."""


@dataclass(frozen=True)
class InteractionJob:
    """All that one rank needs but its rows.

    Attributes
    ----------
    files : the training rows, the same for every rank
    device : of ``conf.training.TrainingSettings``
    """

    settings: InteractionSettings
    files: tuple[FeedFile, ...]
    layout: RowLayout
    reader: Reader
    device: str
    seed: int


def train_interactions(ranks: Ranks, watch: StallWatch | None, job: InteractionJob) -> tuple[list[float], bytes]:
    """The mean loss of each epoch, and the network as safetensors. It begins anew if it is killed.

    The network is returned and not written: driver and ranks may share no folder, and it is 8 MB at its default sizes.

    Raises
    ------
    TrainingError
        If the loss stops being a number, or the files cannot be read.
    """
    settings, device = job.settings, ranks.device(job.device)  # type: ignore[arg-type]
    torch.manual_seed(job.seed)
    model = InteractionNetwork(_read_knots(job), sum(job.layout.sizes), settings).to(device)
    ranks.broadcast(model)
    # decay would pull vectors of sub-bins to zero at every step that does not meet them
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not model.counters.vectors]
    others = [p for p in model.parameters() if p.ndim == 1 or p is model.counters.vectors]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    world = (ranks.rank, ranks.world_size, job.seed)
    feed = CounterFeed(job.files, job.layout, settings.batch_size, job.reader, *world)
    losses, step = [], 0
    for epoch in range(1, settings.epochs + 1):
        total = torch.zeros((), device=device)
        for rows in feed.training(epoch):
            if watch:
                watch.note_progress()
            torch.manual_seed(mix_seed(job.seed, step, ranks.rank))  # of dropout
            optimizer.zero_grad()
            # a mean over the ranks: sum_gradients adds theirs up
            loss = batch_loss(model, rows, settings, job.layout.sizes) / ranks.world_size
            loss.backward()
            ranks.sum_gradients(model.parameters())
            optimizer.step()
            total += loss.detach()
            step += 1
        losses.append(float(ranks.sum([float(total)])[0]) / feed.n_batches)
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"interactions: the loss is {losses[-1]} in epoch {epoch}; lower interactions.learning_rate (now "
                f"{settings.learning_rate})"
            )
    return losses, save({name: tensor.cpu() for name, tensor in model.state_dict().items()})


def batch_loss(
    model: InteractionNetwork, rows: CounterRows, settings: InteractionSettings, sizes: tuple[int, ...]
) -> Tensor:
    """Of the labels, by all events of each client, and of its two views where there are some."""
    device = model.counters.knots.device
    numbers, labels, is_counted = (
        torch.from_numpy(part).to(device) for part in (rows.numbers, rows.labels, rows.is_counted)
    )
    # all views in one pass, one view of all clients after the other: [views * N, F]
    vectors = model(numbers.transpose(0, 1).flatten(0, 1)).chunk(settings.n_views)
    loss = label_loss(model.logits(vectors[0]), labels, is_counted, sizes)
    if settings.n_views > 1:
        loss = loss + settings.view_weight * view_loss(vectors[1], vectors[2], settings.temperature)
    return loss


def load_network(trained: bytes, settings: InteractionSettings) -> InteractionNetwork:
    """The network that was trained with these settings, to make vectors."""
    tensors = load(trained)
    model = InteractionNetwork(tensors["counters.knots"], len(tensors["output.bias"]), settings)
    model.load_state_dict(tensors)
    return model.eval()


def _read_knots(job: InteractionJob) -> Tensor:
    """Of the first training rows, all their events counted: float32 [counters, bins + 1]."""
    read: list[np.ndarray] = []
    for table in read_tables(job.files, (NUMBERS,), None, "arrow"):
        packed = table.column(NUMBERS).combine_chunks()
        numbers = unpack_numbers(packed, job.layout.n_views * job.layout.n_counters)
        read.append(numbers[: ROWS_OF_KNOTS - sum(map(len, read)), : job.layout.n_counters])
        if sum(map(len, read)) >= ROWS_OF_KNOTS:
            break
    return torch.from_numpy(fit_knots(np.concatenate(read), job.settings.n_bins))
