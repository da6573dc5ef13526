import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conf.evaluation import ProbeSettings
from jobs.evaluation import probe_units, scores
from jobs.evaluation.probe_units import ProbeUnit, count_at_once, digest_entry, score_units, unit_bytes
from jobs.evaluation.scores import collect_results
from schemas.errors import EntryError, TableError
from schemas.tasks import TaskScore

UNIT = ProbeUnit(
    entry=Path("entries/mine"),
    task="propensity_sku",
    repeat=0,
    clients=("tables/clients/part-1.parquet",),
    targets={"train": ("tables/targets/part-2.parquet",), "validation": ("tables/targets/part-3.parquet",)},
    popularity=(0.7, 0.3),
    settings=ProbeSettings(),
    n_threads=1,
    epochs=Path("logs/probe.jsonl"),
)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "propensity_price"},
        {"repeat": 1},
        {"clients": ("tables/clients/part-4.parquet",)},
        {"targets": {**UNIT.targets, "validation": ("tables/targets/part-5.parquet",)}},
        {"popularity": (0.3, 0.7)},
        {"settings": ProbeSettings(epochs=1)},
        {"settings": ProbeSettings(precision="bfloat16")},
    ],
)
def test_what_decides_a_result_changes_its_fingerprint(change):
    assert replace(UNIT, **change).fingerprint("a") != UNIT.fingerprint("a")


@pytest.mark.parametrize(
    "change",
    [
        {"entry": Path("elsewhere/other")},
        {"clients": ("moved/clients/part-1.parquet",)},
        {"settings": ProbeSettings(repeats=5)},
        {"n_threads": 4},
    ],
)
def test_where_things_lie_and_how_many_repeats_there_are_does_not(change):
    assert replace(UNIT, **change).fingerprint("a") == UNIT.fingerprint("a") != UNIT.fingerprint("b")


def test_an_entry_is_known_by_the_bytes_of_both_files(tmp_path):
    digests = set()
    for ids, rows in [([1, 2], [0, 0]), ([2, 1], [0, 0]), ([1, 2], [0, 1])]:
        np.save(tmp_path / "client_ids.npy", np.array(ids))
        np.save(tmp_path / "embeddings.npy", np.array(rows, dtype=np.float16))
        digests.add(digest_entry(tmp_path))
    assert len(digests) == 3


def test_results_outlive_the_process_and_are_not_made_again(tmp_path, monkeypatch):
    results = {"churn": TaskScore(0.5, 0.6), "propensity_sku": TaskScore(0.5, 0.6, 0.7, 0.8)}
    units = [replace(UNIT, entry=tmp_path, task=task) for task in results]
    scored = []

    def score_first(_, waiting, n_at_once):
        scored.append([unit.task for unit in waiting])
        for unit in waiting:
            yield unit, results[unit.task]
            raise KeyboardInterrupt

    monkeypatch.setattr(scores, "digest_entry", lambda _: "a")
    monkeypatch.setattr(scores, "score_units", score_first)
    monkeypatch.setattr(scores, "count_at_once", lambda *_: 1)
    for _ in units:
        with pytest.raises(KeyboardInterrupt):
            collect_results(SimpleNamespace(sparkContext=None), units, tmp_path / "units.json")
    found = collect_results(SimpleNamespace(sparkContext=None), units, tmp_path / "units.json")
    assert found == {(tmp_path.name, task, 0): result for task, result in results.items()}
    assert scored == [["churn", "propensity_sku"], ["propensity_sku"], []]


@pytest.mark.parametrize("content", ['{"f": {"score"', '{"f": {"score": 0.5}}', "null"])
def test_damaged_results_are_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "units.json").write_text(content)
    with pytest.raises(TableError, match=r"units\.json: expected JSON.*remove it; all units are then scored again"):
        collect_results(SimpleNamespace(sparkContext=None), [], tmp_path / "units.json")


def units_of(tmp_path, *tasks):
    return [replace(UNIT, task=task, epochs=tmp_path / "epochs.jsonl") for task in tasks]


@pytest.mark.parametrize(
    ("master", "available", "expected"),
    [
        ("local[4]", 100 * 2**30, 4),
        ("local[4]", 5 * 2**30, 2),
        ("local[4]", 2**20, 1),
        # more than its two slots: executors that come with the work that waits come for it
        ("spark://host:7077", 2**20, 8),
    ],
)
def test_as_many_units_run_at_once_as_there_is_memory_for(tmp_path, monkeypatch, master, available, expected):
    np.save(tmp_path / "embeddings.npy", np.zeros((1_000_000, 4), dtype=np.float16))
    units = [replace(UNIT, entry=tmp_path, popularity=(0.01,) * 100, repeat=number) for number in range(8)]
    assert 2 < unit_bytes(1_000_000, 4, 100, UNIT.settings) / 2**30 < 2.2
    monkeypatch.setattr(probe_units.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    context = SimpleNamespace(master=master, defaultParallelism=4 if master.startswith("local") else 2)
    assert count_at_once(context, units) == expected


def test_a_unit_that_fails_cancels_the_others_at_once(spark, tmp_path, monkeypatch):
    def act(unit):  # runs on an executor
        import time

        from schemas.errors import EntryError

        if unit.task == "bad":
            return EntryError("no numbers")
        time.sleep(600)
        unit.epochs.with_name("ended").touch()

    monkeypatch.setattr(probe_units, "score_unit", act)
    with pytest.raises(EntryError, match="no numbers"):
        list(score_units(spark.sparkContext, units_of(tmp_path, "slow", "bad", "slow", "slow"), n_at_once=2))
    assert not (tmp_path / "ended").exists(), "the others were not waited for"
    assert list(spark.sparkContext.statusTracker().getActiveJobsIds()) == []


class ThreadsAsJobs:
    """Takes the place of Spark's context: what a job does is done by the thread that asks for it."""

    defaultParallelism = 3  # noqa: N815

    def __init__(self):
        self.is_cancelled = threading.Event()

    def addJobTag(self, tag):  # noqa: N802
        pass

    def cancelJobsWithTag(self, tag):  # noqa: N802
        self.is_cancelled.set()

    def parallelize(self, units, n_parts):
        return self.Job(units)

    class Job:
        def __init__(self, units):
            self.units = units

        def map(self, function):
            self.function = function
            return self

        def collect(self):
            return [self.function(unit) for unit in self.units]


def test_results_that_were_there_when_a_unit_failed_are_given_before_its_error(tmp_path, monkeypatch):
    context, has_first, futures = ThreadsAsJobs(), threading.Event(), {}
    result = TaskScore(0.5, 0.6)

    class KnownFutures(ThreadPoolExecutor):
        def submit(self, function, unit):
            return futures.setdefault(unit.task, super().submit(function, unit))

    def act(unit):
        if unit.task == "first":
            return result
        if unit.task == "slow":
            assert context.is_cancelled.wait(60)
            raise RuntimeError("Job cancelled")
        assert has_first.wait(60)
        if unit.task == "bad":
            return EntryError("no numbers")
        futures["bad"].result(60)
        return result

    monkeypatch.setattr(probe_units, "score_unit", act)
    monkeypatch.setattr(probe_units, "inheritable_thread_target", lambda function: function)
    monkeypatch.setattr(probe_units, "ThreadPoolExecutor", KnownFutures)
    given = []

    def take(units):
        for unit, score in score_units(context, units, context.defaultParallelism):
            given.append((unit.task, score))
            has_first.set()
            futures["second"].result(60)  # after the one that failed, and before more is asked for

    with pytest.raises(EntryError, match="no numbers"):
        take(units_of(tmp_path, "first", "bad", "second", "slow", "slow", "slow", "slow"))
    assert given == [("first", result), ("second", result)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_unit_is_scored_on_its_tasks_device_and_then_lets_it_go(tmp_path, monkeypatch, fails):
    np.save(tmp_path / "embeddings.npy", np.zeros((2, 1), dtype=np.float16))
    labels = np.zeros((2, 2), dtype=np.uint8), np.ones(2, dtype=bool)
    happened = []

    def score(*_, device, **__):
        happened.append(device)
        if fails:
            raise EntryError("no numbers")
        return TaskScore(0.5, 0.6)

    monkeypatch.setattr(probe_units, "_entry_positions", lambda unit: np.arange(2))
    monkeypatch.setattr(probe_units, "read_label_rows", lambda *_: labels)
    monkeypatch.setattr(probe_units, "score_task", score)
    monkeypatch.setattr(probe_units, "task_device", lambda: "cuda:3")
    monkeypatch.setattr(probe_units, "release_device", lambda: happened.append("released"))
    result = probe_units.score_unit(replace(UNIT, entry=tmp_path))
    assert isinstance(result, EntryError) == fails
    assert happened == ["cuda:3", "released"]
