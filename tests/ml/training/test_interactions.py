"""Training of the network of interactions: it learns, and a seed gives its weights, by one rank or two."""

import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conf.interactions import InteractionSettings
from ml.data.counter_rows import CounterRows, RowLayout
from ml.data.sharding import FeedFile
from ml.models.interactions import InteractionNetwork
from ml.objectives.interactions import label_loss, view_loss
from ml.training.distributed import Ranks, TorchRanks
from ml.training.interactions import InteractionJob, batch_loss, load_network, train_interactions
from schemas.errors import TrainingError

SETTINGS = InteractionSettings(
    n_bins=4,
    n_sub_bins=2,
    ranks=(4, 4),
    dense_widths=(8,),
    batch_size=64,
    epochs=10,
    learning_rate=0.02,
    weight_decay=0.01,
    dropout=0.1,
    view_weight=0.5,
)


LABELS_ALONE = replace(SETTINGS, view_weight=0.0)


@pytest.fixture(params=[SETTINGS], ids=["views"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> InteractionJob:
    """Clients who come back where one of two counters is high and the other is not: neither tells it alone."""
    rng = np.random.default_rng(1)
    settings: InteractionSettings = request.param
    numbers = rng.uniform(-1, 1, (640, settings.n_views, 2)).astype(np.float32)
    numbers[:, 1:] = numbers[:, :1]
    comes_back = numbers[:, 0, 0] * numbers[:, 0, 1] < 0
    columns = {
        "numbers": pa.array([row.tobytes() for row in numbers]),
        "is_active": pa.array([True] * 640),
        "labels": pa.array([[0] if each else None for each in comes_back], pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    files = (FeedFile((tmp_path / "rows.parquet").as_uri(), 640, 1),)
    return InteractionJob(settings, files, RowLayout(settings.n_views, 2, (1, 1)), "arrow", "cpu", seed=5)


@pytest.mark.parametrize("job", [SETTINGS, LABELS_ALONE], ids=["views", "labels alone"], indirect=True)
def test_it_learns_what_no_counter_tells_alone_and_a_seed_gives_its_weights(job: InteractionJob) -> None:
    losses, network = train_interactions(Ranks(), None, job)
    assert len(losses) == 10
    model = load_network(network, SETTINGS)
    corners = torch.tensor([[0.7, 0.7], [-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7]])
    stays_away = model.logits(model(corners))[:, 0]
    assert stays_away[:2].min() > 1 > -1 > stays_away[2:].max()

    made = []
    for seed in (5, 5, 6):
        short = replace(job, settings=replace(job.settings, epochs=1), seed=seed)
        made.append(train_interactions(Ranks(), None, short))
    assert made[0] == made[1] != made[2]


def test_a_loss_that_is_no_number_ends_it_with_a_message(job: InteractionJob) -> None:
    settings = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"interactions: the loss is .*; lower interactions.learning_rate"):
        train_interactions(Ranks(), None, replace(job, settings=settings))


def train_twice(rank: int, port: int, job: InteractionJob) -> list[tuple[list[float], bytes]]:
    """What one of two ranks learns, and what it learns when it does the same again."""
    environment = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    ranks = TorchRanks(timeout_seconds=60)
    learnt = [train_interactions(ranks, None, job) for _ in range(2)]
    ranks.close()
    return learnt


@pytest.mark.faults  # two processes that import torch: too long for the ordinary suite
def test_two_ranks_learn_one_network_together_and_a_seed_gives_its_weights(job: InteractionJob) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = replace(job, settings=replace(SETTINGS, epochs=4, batch_size=32))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        one, other = pool.map(train_twice, range(2), [port] * 2, [short] * 2)
    assert one == other
    assert one[0] == one[1]
    losses, _ = one[0]
    assert losses[-1] < losses[0]


def test_labels_are_told_by_all_events_and_the_two_views_by_each_other() -> None:
    settings = replace(SETTINGS, dropout=0.0)
    model = InteractionNetwork(torch.linspace(-1, 1, 5).expand(2, 5).contiguous(), 2, settings)
    numbers = np.random.default_rng(0).uniform(-1, 1, (8, 3, 2)).astype(np.float32)
    rows = CounterRows(numbers, np.eye(2, dtype=np.float32)[np.arange(8) % 2], np.ones((8, 2), bool))
    whole, one, other = (model(torch.from_numpy(numbers[:, view])) for view in range(3))
    of_labels = label_loss(
        model.logits(whole), torch.from_numpy(rows.labels), torch.from_numpy(rows.is_counted), (1, 1)
    )
    expected = of_labels + settings.view_weight * view_loss(one, other, settings.temperature)
    torch.testing.assert_close(batch_loss(model, rows, settings, (1, 1)), expected)
