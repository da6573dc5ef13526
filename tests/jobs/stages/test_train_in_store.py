"""A rank on a host that reaches ``--out`` as a store only: it reads there, and what it saves is there."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from no_work import NoWork
from s3_server import BUCKET, S3Server
from safetensors.numpy import load_file
from small_encoders import settings_of

from conf.load import load_config
from conf.training import FeedSettings, TrainingSettings
from jobs.blocks import encoders
from jobs.blocks.encoders import PlannedModel, train_all
from jobs.reporting.history import split_training
from jobs.stages import train
from jobs.storage.metrics_log import read_metrics
from jobs.storage.working_copy import COMPLETE, WorkingCopy
from jobs.storage.workspace import Workspace
from ml.data.sharding import FeedFile
from ml.data.vocabulary import VocabularyDescription
from ml.files.store import Store
from ml.training.checkpoint import ModelCard
from ml.training.distributed import Ranks
from ml.training.loop import ATTRIBUTES, TrainingJob
from schemas.tokens import FIRST_ITEM

N_ROWS, N_ITEMS, WIDTH = 48, 12, 8
TRAINING = TrainingSettings(
    n_ranks=1, epochs=2, tokens_per_batch=64, learning_rate=3e-3, checkpoint_every_steps=4, log_every_steps=2
)


def plan(folder: Path, url: str) -> PlannedModel:
    card = ModelCard("page_visit", settings_of(training=TRAINING), VocabularyDescription(FIRST_ITEM + N_ITEMS), "a", 0)
    job = TrainingJob(card, folder / "models" / "page_visit", folder / "checkpoints" / "page_visit", seed=1)
    return PlannedModel(job, (FeedFile(url, N_ROWS, WIDTH),), (), FeedSettings())


def test_a_training_goes_on_on_another_host_with_what_the_store_has(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ml")
    tokens = FIRST_ITEM + (np.arange(N_ROWS)[:, None] + np.arange(WIDTH)) % N_ITEMS
    pq.write_table(pa.table({"token_ids": list(tokens.astype(np.int32))}), tmp_path / "part.parquet", row_group_size=20)
    store = Store(f"s3://{BUCKET}/run")
    store.put(["part.parquet"], tmp_path)
    here = plan(tmp_path / "here", (tmp_path / "part.parquet").as_uri())
    (tmp_path / "here").mkdir()
    train_all(Ranks(), None, [here], tmp_path / "here" / "metrics.jsonl", None, "run")

    driver = tmp_path / "not-mounted" / "out-1"
    there = plan(driver, f"{store.url}/part.parquet")
    arguments = ([there], driver / "metrics.jsonl", WorkingCopy(store, driver), "run")
    append, n_lines = encoders.append_metrics, 0

    def append_few(*line: object) -> None:
        nonlocal n_lines
        n_lines += 1
        if n_lines > 4:
            raise RuntimeError("the host is lost")
        append(*line)  # type: ignore[arg-type]

    with monkeypatch.context() as first:
        first.setattr(encoders, "scratch_folder", lambda: tmp_path / "worker1")
        first.setattr(encoders, "append_metrics", append_few)
        with pytest.raises(RuntimeError, match="lost"):
            train_all(Ranks(), None, *arguments)
    assert "checkpoints/page_visit/run.safetensors" in store.list_all("checkpoints")
    assert store.list_all("models") == {}
    monkeypatch.setattr(encoders, "scratch_folder", lambda: tmp_path / "worker2")
    monkeypatch.setattr(encoders, "append_metrics", append)
    (result,) = train_all(Ranks(), None, *arguments)
    assert "page_visit: going on after step" in caplog.text
    assert result["is_finished"]

    fetched = WorkingCopy(store, tmp_path / "fetched")
    fetched.start()
    fetched.pull("models")
    assert f"models/page_visit/{COMPLETE}" in store.list_all("models")
    found, weights = (load_file(folder / "models" / "page_visit" / "weights.safetensors")
                       for folder in (fetched.folder, tmp_path / "here"))  # fmt: skip
    assert found.keys() == weights.keys()
    for name in weights:
        np.testing.assert_array_equal(found[name], weights[name], err_msg=name)
    lines = list(read_metrics(fetched.folder / "metrics.jsonl"))
    assert {line["epoch"] for line in lines} == {1, 2}
    begun = [line["begins_at"] for line in lines if "begins_at" in line]
    assert len(begun) == 2
    assert begun[0] == 0 < begun[1]
    undisturbed = read_metrics(tmp_path / "here" / "metrics.jsonl")
    shown, expected = (split_training(each)[1]["page_visit"].loss[:, 0].tolist() for each in (lines, undisturbed))
    assert shown == expected, "the steps before the kill too"
    assert not driver.exists()


def test_items_of_a_merged_stream_are_in_the_store_before_ranks_of_other_hosts_start(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = WorkingCopy(Store(f"s3://{BUCKET}/merged"), tmp_path / "copy")
    copy.start()
    workspace = Workspace(copy.folder, working_copy=copy)
    attributes = workspace.checkpoints("mixed") / ATTRIBUTES

    def write_attributes(*_: object) -> list[PlannedModel]:
        attributes.parent.mkdir(parents=True)
        attributes.write_bytes(b"items")
        return [replace(plan(copy.folder, "no file"), attributes=attributes)]

    seen: list[str] = []
    monkeypatch.setattr(train, "plan_training", write_attributes)
    monkeypatch.setattr(train, "launch", lambda *_: seen.extend(copy.store.list_all("checkpoints")) or [])
    train.run(NoWork(), load_config("demo", ["training.n_ranks=1"]), workspace)  # type: ignore[arg-type]
    assert seen == [f"checkpoints/mixed/{ATTRIBUTES}"]
