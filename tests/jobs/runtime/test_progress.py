"""What a watcher sees of long work, and what a log file does not."""

import json
import logging
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.runtime import progress
from jobs.runtime.progress import probe_progress, spark_progress, training_progress
from jobs.storage.metrics_log import append_metrics
from ml.files.atomic import replace_text

EPOCH = {"behaviour": "page_visit", "epoch": 1, "validation/ndcg@10": 0.25, "validation/hr@10": 0.5}
INTERVAL = {"behaviour": "page_visit", "epoch": 1, "step": 5, "steps": 10, "train/loss": 1.25}


def test_a_terminal_sees_the_tasks_of_the_stage_at_work(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    with spark_progress(spark.sparkContext, "vocabulary"):
        spark.sparkContext.parallelize(range(4), 4).map(lambda _: time.sleep(0.5)).count()
    shown = capsys.readouterr().err
    assert "vocabulary: " in shown
    assert "/4 [" in shown
    assert spark.sparkContext.getLocalProperty("spark.job.description") == "vocabulary"


def test_a_log_file_sees_no_bar(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    with spark_progress(spark.sparkContext, "vocabulary"):
        pass
    assert capsys.readouterr().err == ""


def test_training_shows_a_line_per_epoch_and_a_bar_on_a_terminal_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {**EPOCH, "epoch": 9})  # of an earlier run
    for is_terminal in (False, True):
        monkeypatch.setattr(progress, "is_terminal", lambda is_terminal=is_terminal: is_terminal)
        caplog.clear()
        with training_progress(path):
            append_metrics(path, INTERVAL)
            append_metrics(path, EPOCH)
        assert [record.getMessage() for record in caplog.records] == [
            "  page_visit: epoch 1, validation NDCG@10 0.2500, HR@10 0.5000"
        ]
        assert ("5/10" in capsys.readouterr().err) == is_terminal


def test_training_is_followed_in_the_file_that_takes_the_place_of_the_first_and_no_line_is_shown_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a working copy does, where stages on other machines write their lines to the same store."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    for epoch in (8, 9):  # of an earlier run
        append_metrics(path, {**EPOCH, "epoch": epoch})
    n_known = len(path.read_text().splitlines()) - 1
    with training_progress(path):
        for epoch in (1, 3):
            append_metrics(path, {**EPOCH, "epoch": epoch})
            lines = path.read_text().splitlines(keepends=True)
            lines.insert(n_known, json.dumps({**EPOCH, "behaviour": "elsewhere", "epoch": epoch}) + "\n")
            replace_text(path, "".join(lines))
            append_metrics(path, {**EPOCH, "epoch": epoch + 1})
            time.sleep(0.7)  # until the file has been looked at
    shown = [record.getMessage().split(",")[0].strip() for record in caplog.records]
    own = [f"page_visit: epoch {epoch}" for epoch in (1, 2, 3, 4)]
    assert sorted(shown) == ["elsewhere: epoch 1", "elsewhere: epoch 3", *own]
    assert [line for line in shown if line in own] == own


def test_epochs_of_the_probe_that_take_long_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    epochs = tmp_path / "probe.jsonl"
    epochs.write_text("of an earlier run\n")
    with probe_progress(epochs, 3), epochs.open("a") as stream:
        for epoch, seconds in [(1, 29.9), (2, 90.0)]:
            line = {"unit": "ensemble, churn", "epoch": epoch, "epochs": 3, "score": 0.6, "seconds": seconds}
            stream.write(json.dumps(line) + "\n")
    assert [record.getMessage() for record in caplog.records] == ["  ensemble, churn: epoch 2 of 3, 0.6000 (90 s)"]
