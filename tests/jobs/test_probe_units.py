from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conf.settings import ProbeSettings
from jobs.probe_units import ProbeUnit, UnitResults, digest_entry
from schemas.errors import TableError
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


def test_results_outlive_the_process(tmp_path):
    result = TaskScore(0.5, 0.6, 0.7, 0.8)
    UnitResults(tmp_path / "units.json").put("f", result)
    kept = UnitResults(tmp_path / "units.json")
    assert kept.get("f") == result
    assert kept.get("g") is None


@pytest.mark.parametrize("content", ['{"f": {"score"', '{"f": {"score": 0.5}}', "null"])
def test_damaged_results_are_told_with_what_to_do(tmp_path, content):
    (tmp_path / "units.json").write_text(content)
    with pytest.raises(TableError, match=r"units\.json: expected JSON.*remove it; all units are then scored again"):
        UnitResults(tmp_path / "units.json")
