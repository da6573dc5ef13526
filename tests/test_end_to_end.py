"""All stages in one run: on a simulated shop, on the golden shop, and on real purchases."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from tiny_run import ENCODERS, TinyRun

from jobs.cli import main
from jobs.storage.delta_tables import read_table
from jobs.storage.entry_rules import validate_entry
from jobs.storage.provenance import read_records
from schemas.tables import SEQUENCES
from schemas.tasks import TASKS

TINY = [
    "model.hidden_size=16", "model.n_layers=1", "training.epochs=2", "probe.hidden_size=16", "probe.epochs=1",
    "sequences.widths=[1,8,64]",
]  # fmt: skip
COMPOSED = ["ensemble", "ensemble+baseline"]


def run(data: Path, out: Path, *more: str) -> None:
    flags = ["--data", str(data), "--out", str(out), "--config", "demo"]
    assert main(["run", *flags, *more, "--set", *TINY]) == 0


def rows_of(spark: SparkSession, out: Path, table: str) -> list[str]:
    frame = spark.read.format("delta").load(str(out / "tables" / table))
    return sorted(str(row) for row in frame.collect())


def test_a_simulated_shop_runs_to_its_scores(spark: SparkSession, tiny_run: TinyRun) -> None:
    """Two Horovod ranks trained its encoders. That another run gives the same, the run into a catalog shows."""
    out = tiny_run.workspace.out
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "entries", "logs", "metrics.jsonl", "models", "probe_units.json", "provenance.json",
        "report.html", "scores.json", "tables",
    }  # fmt: skip
    check_scores(tiny_run.data, out)
    records = read_records(tiny_run.workspace)
    assert {name: records[name].folders for name in ("probe", "report")} == {
        "probe": ["scores.json"],
        "report": ["report.html"],
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    check_losses(out, lines)
    held_out = read_table(spark, tiny_run.workspace, SEQUENCES).filter("is_held_out and width > 1")
    expected = {row["behaviour"]: row["count"] for row in held_out.groupBy("behaviour").count().collect()}
    assert expected == {line["behaviour"]: line["validation/users"] for line in lines if "validation/users" in line}


def check_scores(data: Path, out: Path) -> None:
    relevant = np.load(data / "input" / "relevant_clients.npy")
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["baseline", "activity", *ENCODERS, *COMPOSED]
    for entry, by_task in scores.items():
        validate_entry(out / "entries" / entry, relevant)
        assert list(by_task) == list(TASKS), entry


def check_losses(out: Path, lines: list[dict[str, Any]]) -> None:
    assert {path.name for path in (out / "models").iterdir()} == set(ENCODERS)
    losses: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if "train/loss" in line:
            losses[line["behaviour"]].append(line["train/loss"])
    # two epochs of few batches: a single behaviour's loss may rise by chance, all of them together do not
    assert set(losses) == set(ENCODERS)
    assert sum(own[-1] for own in losses.values()) < sum(own[0] for own in losses.values())


@pytest.mark.slow
def test_real_purchases_run_end_to_end_without_the_other_behaviours(
    spark: SparkSession, completejourney: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "out"
    flags = ["--data", str(completejourney), "--out", str(out), "--config", "demo"]
    told = [*TINY, "training.n_ranks=1", "training.epochs=1", "loss.name=sampled", "loss.n_negatives=256"]
    told += ["ensemble.blocks=[]", "encoders.mixed=null"]  # for the time that they take
    assert main(["run", *flags, "--set", *told]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["baseline", "activity", "product_buy", "ensemble"]
    for entry, by_task in scores.items():
        assert list(by_task) == list(TASKS), entry
        assert [task for task, result in by_task.items() if not 0 <= result["score"] <= 1] == [], entry
    left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert sum("page_visit" in message for message in left_out) >= 1
    assert rows_of(spark, out, "quarantine") == []


@pytest.mark.slow
def test_the_golden_shops_vocabularies_and_sequences_equal_a_plain_reading(
    spark: SparkSession, golden: Path, tmp_path: Path
) -> None:
    data, out = golden / "challenge", tmp_path / "out"
    run(data, out, "--to", "sequences", "--set", "encoders.mixed=null")
    vocabularies = spark.read.format("delta").load(str(out / "tables" / "vocabularies")).collect()
    sequences = spark.read.format("delta").load(str(out / "tables" / "sequences")).collect()
    for name, item, max_length, min_count in [
        ("product_buy", "sku", 30, 1), ("add_to_cart", "sku", 64, 1), ("remove_from_cart", "sku", 48, 1),
        ("page_visit", "url", 64, 5), ("search_query", "query", 32, 1),
    ]:  # fmt: skip
        ids, expected = plain_reading(data / f"{name}.parquet", item, max_length, min_count, "2022-09-01")
        assert {row["key"]: row["token_id"] for row in vocabularies if row["behaviour"] == name} == ids
        found = {r["client_id"]: (r["token_ids"], r["n_events"]) for r in sequences if r["behaviour"] == name}
        assert found == expected


def plain_reading(
    path: Path, item: str, max_length: int, min_count: int, cutoff: str
) -> tuple[dict[str, int], dict[int, tuple[list[int], int]]]:
    """The two tables by plain Python: key -> token id, and client -> (last token ids, events)."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["timestamp"] < cutoff]
    for row in rows:
        row[item] = row[item] if isinstance(row[item], int) else "[" + " ".join(row[item].strip("[]").split()) + "]"
    counts = Counter(row[item] for row in rows)
    kept = sorted((key for key, count in counts.items() if count >= min_count), key=lambda key: (-counts[key], key))
    ids = {key: 3 + place for place, key in enumerate(kept)}
    histories: dict[int, list[Any]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["timestamp"], row[item])):
        if row[item] in ids:
            histories[row["client_id"]].append(ids[row[item]])
    sequences = {client: (tokens[-max_length:], len(tokens)) for client, tokens in histories.items()}
    return {str(key): token_id for key, token_id in ids.items()}, sequences
