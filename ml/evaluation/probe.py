"""The challenge's fixed network that scores an entry on a task (Synerise/recsys2025, training pipeline).

Shapes: N clients, B batch, d width of a profile, H hidden, n labels.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from conf.evaluation import ProbeSettings
from ml.compat.allocator import keep_freed_memory
from ml.evaluation.packed_labels import PackedLabels
from ml.metrics import challenge
from schemas.errors import TrainingError
from schemas.tasks import PROPENSITY, TaskScore

EVALUATION_ROWS = 1024
"""Rows of one forward pass when scoring; no row's logits depend on the others."""


class ProbeNetwork(nn.Module):
    """Residual blocks on a profile, ending in one logit per label.

    The modules are made in the organisers' order, which fixes the weights that a seed gives.
    """

    def __init__(self, width: int, n_labels: int, settings: ProbeSettings) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.input_projection = nn.Linear(width, hidden)
        self.input_norm = nn.LayerNorm(hidden)
        self.block_norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(settings.n_blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
            for _ in range(settings.n_blocks)
        )
        self.output_norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, n_labels)
        self.is_bfloat16 = settings.precision == "bfloat16"

    def forward(self, profiles: Tensor) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        profiles : float32 [B, d]

        Returns
        -------
        float32 [B, n]
        """
        with torch.autocast(profiles.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            # norms and sums in float32: only the inside of a block is bfloat16
            x = self.input_norm(self.input_projection(profiles).float())  # [B, H]
            for norm, block in zip(self.block_norms, self.blocks, strict=True):
                x = x + block(norm(x))
        # in float32 whatever the precision: AUROC ranks the logits, and bfloat16 would make many of them equal
        return self.output(self.output_norm(x))  # [B, n]


def build_probe(width: int, n_labels: int, settings: ProbeSettings) -> ProbeNetwork:
    """The network with the weights that follow ``torch.manual_seed(settings.seed)``; the caller's RNG is untouched."""
    # weights are drawn on the CPU: no GPU's generator is touched
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ProbeNetwork(width, n_labels, settings)


def score_task(
    embeddings: np.ndarray,
    train_labels: np.ndarray | PackedLabels,
    validation_labels: np.ndarray | PackedLabels,
    task: str,
    popularity: np.ndarray | None,
    settings: ProbeSettings,
    rows: np.ndarray | None = None,
    device: str = "cpu",
    repeat: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TaskScore:
    """The best of the probe's epochs on one task, each number rounded to 4 places.

    Parameters
    ----------
    embeddings : float16 or float32 [M, d], may be a memory map: only batches are read
    train_labels, validation_labels : uint8 [N, n], or the same packed, of the same clients in the two windows
    popularity : float [n], None for churn and conversion
    rows : int64 [N], the row of ``embeddings`` of each label row; None where they are the same (M = N)
    repeat : 0 is the organisers' run: ``settings.seed``, rows in the order given. Repeat r has the seed
        ``settings.seed + r`` for its weights and for a permutation of the rows.
    on_epoch : called with the number of each epoch, from 1, and its score, as soon as it is over

    Raises
    ------
    TrainingError
        If the network gives something that is not a number.
    """
    keep_freed_memory()  # AdamW makes large tensors in each step, a third of its time without this
    train, truth = (
        labels if isinstance(labels, PackedLabels) else PackedLabels.pack(labels)
        for labels in (train_labels, validation_labels)
    )
    if repeat:
        settings = replace(settings, seed=settings.seed + repeat)
        order = np.random.default_rng(settings.seed).permutation(len(train))
        rows = order if rows is None else rows[order]
        train, truth = train[order], truth[order]
    profiles, n_labels = Profiles(embeddings, rows, device), train.n_labels
    epochs: list[TaskScore] = []
    with tensor_float32(settings.precision == "tf32"):
        network = build_probe(embeddings.shape[1], n_labels, settings).to(device)
        optimizer = build_optimizer(network, settings)
        for epoch in range(1, settings.epochs + 1):
            # the losses are for those who measure it
            for _ in train_epoch(network, optimizer, profiles, train, settings.batch_size):
                pass
            logits = predict(network, profiles, n_labels)
            # by the bounds, which take no memory: where there is a NaN, both are NaN
            if not all(bound.isfinite() for bound in logits.aminmax()):
                raise TrainingError(f"the probe of {task} gave a logit that is no number in epoch {epoch}")
            epochs.append(score_logits(logits, truth, task, popularity, settings.batch_size))
            if on_epoch:
                on_epoch(epoch, epochs[-1].score)
    best = max(epochs, key=lambda epoch: epoch.score)
    numbers = (best.score, best.auroc, best.novelty, best.diversity)
    return TaskScore(*(None if number is None else round(number, 4) for number in numbers))  # type: ignore[arg-type]


class Profiles:
    """The entry's rows as float32 batches on the device, always in the same order."""

    def __init__(self, embeddings: np.ndarray, rows: np.ndarray | None = None, device: str = "cpu") -> None:
        self.embeddings, self.rows, self.device = embeddings, rows, device
        self.n_rows = len(embeddings if rows is None else rows)

    def batches(self, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
        """Positions of the rows, and float32 [B, d]."""
        # not shuffled, as in the organisers' loader
        for start in range(0, self.n_rows, batch_size):
            part = slice(start, min(start + batch_size, self.n_rows))
            batch = self.embeddings[part if self.rows is None else self.rows[part]]
            yield part, torch.from_numpy(batch.astype(np.float32)).to(self.device)


@contextlib.contextmanager
def tensor_float32(is_allowed: bool) -> Iterator[None]:
    """Matrix products of a GPU in TF32 until the block ends; a CPU ignores it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def build_optimizer(network: ProbeNetwork, settings: ProbeSettings) -> torch.optim.AdamW:
    """The organisers' AdamW, torch's defaults but for the learning rate.

    On a CPU its weights are theirs to the last bit, which the fused one's are not. On a GPU products round otherwise
    anyway.
    """
    parameters = list(network.parameters())
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, fused=parameters[0].device.type != "cpu")


def train_epoch(
    network: ProbeNetwork,
    optimizer: torch.optim.AdamW,
    profiles: Profiles,
    labels: PackedLabels,
    batch_size: int,
) -> Iterator[Tensor]:
    """Take one step per batch, and give its loss, as the caller asks for them."""
    network.train()
    for part, batch in profiles.batches(batch_size):
        optimizer.zero_grad()
        target = labels.unpack(part).to(batch.device, torch.float32)
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch), target)
        loss.backward()
        optimizer.step()
        yield loss.detach()


@torch.no_grad()
def predict(network: ProbeNetwork, profiles: Profiles, n_labels: int) -> Tensor:
    """Logits of all rows, float32 [N, n], on the CPU."""
    network.eval()
    logits = torch.empty(profiles.n_rows, n_labels)
    for part, batch in profiles.batches(EVALUATION_ROWS):
        logits[part] = network(batch).cpu()
    return logits


def score_logits(
    logits: Tensor, labels: PackedLabels, task: str, popularity: np.ndarray | None, batch_size: int | None = None
) -> TaskScore:
    """The score of one set of predictions, not rounded.

    Parameters
    ----------
    logits : float32 [N, n]
    popularity : [n], needed for the propensity tasks
    batch_size : as for ``challenge.auroc``
    """
    area = challenge.auroc(logits, labels.columns(), batch_size)
    if task not in PROPENSITY:
        return TaskScore(score=area, auroc=area)
    assert popularity is not None, f"{task} needs the popularity of its labels"
    novelty = challenge.novelty(logits, torch.from_numpy(np.array(popularity, dtype=np.float32)))
    diversity = challenge.diversity(logits)
    return TaskScore(challenge.propensity_score(area, novelty, diversity), area, novelty, diversity)


def over_repeats(results: Sequence[TaskScore]) -> TaskScore:
    """The first result with all scores, their mean and their standard deviation, where there are several.

    Examples
    --------
    >>> total = over_repeats([TaskScore(0.7, 0.7), TaskScore(0.5, 0.5), TaskScore(0.6, 0.6)])
    >>> total.score, total.mean, total.std, total.repeats
    (0.7, 0.6, 0.1, [0.7, 0.5, 0.6])
    """
    if len(results) == 1:
        return results[0]
    scores = [result.score for result in results]
    mean, std = statistics.mean(scores), statistics.stdev(scores)
    return replace(results[0], mean=round(mean, 4), std=round(std, 4), n_repeats=len(results), repeats=scores)
