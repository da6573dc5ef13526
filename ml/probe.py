"""The challenge's fixed network that scores an entry on a task (Synerise/recsys2025, training pipeline).

Shapes: N clients, B batch, d width of a profile, H hidden, n labels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from conf.settings import ProbeSettings
from ml import metrics
from schemas.errors import TrainingError
from schemas.tasks import PROPENSITY, TaskScore


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

    def forward(self, profiles: Tensor) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        profiles : float32 [B, d]

        Returns
        -------
        float32 [B, n]
        """
        x = self.input_norm(self.input_projection(profiles))  # [B, H]
        for norm, block in zip(self.block_norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.output(self.output_norm(x))  # [B, n]


def build_probe(width: int, n_labels: int, settings: ProbeSettings) -> ProbeNetwork:
    """The network with the weights that follow ``torch.manual_seed(settings.seed)``; the caller's RNG is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ProbeNetwork(width, n_labels, settings)


def score_task(
    embeddings: np.ndarray,
    train_labels: np.ndarray,
    validation_labels: np.ndarray,
    task: str,
    popularity: np.ndarray | None,
    settings: ProbeSettings,
    rows: np.ndarray | None = None,
    device: str = "cpu",
) -> TaskScore:
    """The best of the probe's epochs on one task, each number rounded to 4 places.

    Parameters
    ----------
    embeddings : float16 or float32 [M, d], may be a memory map: only batches are read
    train_labels, validation_labels : uint8 [N, n], of the same clients in the two windows
    popularity : float [n], None for churn and conversion
    rows : int64 [N], the row of ``embeddings`` of each label row; None where they are the same (M = N)

    Raises
    ------
    TrainingError
        If the network gives something that is not a number.
    """
    profiles = _Profiles(embeddings, rows, settings.batch_size, device)
    epochs = _score_epochs(profiles, train_labels, validation_labels, task, popularity, settings)
    return _rounded(max(epochs, key=lambda epoch: epoch.score))


class _Profiles:
    """The entry's rows as float32 batches on the device, always in the same order."""

    def __init__(self, embeddings: np.ndarray, rows: np.ndarray | None, batch_size: int, device: str) -> None:
        self.embeddings, self.rows, self.batch_size, self.device = embeddings, rows, batch_size, device
        self.n_rows = len(embeddings if rows is None else rows)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.n_rows, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.n_rows))
            batch = self.embeddings[part if self.rows is None else self.rows[part]]
            yield part, torch.from_numpy(np.array(batch, dtype=np.float32)).to(self.device)  # [B, d]


def _score_epochs(
    profiles: _Profiles,
    train_labels: np.ndarray,
    validation_labels: np.ndarray,
    task: str,
    popularity: np.ndarray | None,
    settings: ProbeSettings,
) -> Iterator[TaskScore]:
    network = build_probe(profiles.embeddings.shape[1], train_labels.shape[1], settings).to(profiles.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    truth = torch.from_numpy(validation_labels)
    for epoch in range(settings.epochs):
        _train_epoch(network, optimizer, profiles, torch.from_numpy(train_labels))
        logits = _predict(network, profiles, train_labels.shape[1])
        if not logits.isfinite().all():
            raise TrainingError(f"the probe of {task} gave a logit that is no number in epoch {epoch + 1}")
        yield score_logits(logits, truth, task, popularity)


def _train_epoch(network: ProbeNetwork, optimizer: torch.optim.Optimizer, profiles: _Profiles, labels: Tensor) -> None:
    network.train()
    for part, batch in profiles:
        optimizer.zero_grad()
        target = labels[part].to(batch.device, torch.float32)
        nn.functional.binary_cross_entropy_with_logits(network(batch), target).backward()
        optimizer.step()


@torch.no_grad()
def _predict(network: ProbeNetwork, profiles: _Profiles, n_labels: int) -> Tensor:
    network.eval()
    logits = torch.empty(profiles.n_rows, n_labels)
    for part, batch in profiles:
        logits[part] = network(batch).cpu()
    return logits


def score_logits(logits: Tensor, labels: Tensor, task: str, popularity: np.ndarray | None) -> TaskScore:
    """The score of one set of predictions, not rounded.

    Parameters
    ----------
    logits : float32 [N, n]
    labels : 0 and 1 [N, n]
    popularity : [n], needed for the propensity tasks
    """
    area = metrics.auroc(logits, labels)
    if task not in PROPENSITY:
        return TaskScore(score=area, auroc=area)
    assert popularity is not None, f"{task} needs the popularity of its labels"
    novelty = metrics.novelty(logits, torch.from_numpy(np.array(popularity, dtype=np.float32)))
    diversity = metrics.diversity(logits)
    return TaskScore(metrics.propensity_score(area, novelty, diversity), area, novelty, diversity)


def _rounded(result: TaskScore) -> TaskScore:
    rounded = (None if value is None else round(value, 4) for value in (result.novelty, result.diversity))
    return TaskScore(round(result.score, 4), round(result.auroc, 4), *rounded)
