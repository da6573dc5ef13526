"""`kill -9` of the driver in each stage: before its write, in it, and after it but before it is noted as finished.

Each killed run is followed by the next, which must go on where it stood; the last one's output is compared with that of
a run that nothing happened to.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from fault_runs import (
    BEHAVIOURS,
    Shop,
    assert_same_outcome,
    finished_stages,
    kill_driver_when,
    newest,
    ranks_below,
    started,
    tell,
    unfinished_copy,
    wait_until,
)

from jobs.pipeline.registry import STAGE_NAMES, STAGES
from jobs.storage.metrics_log import read_metrics
from jobs.storage.provenance import changed_records
from jobs.storage.workspace import Workspace

pytestmark = pytest.mark.faults

MODELS, ENTRIES = ("product_buy", "page_visit"), ("product_buy", "page_visit", "ensemble")
BEGUN = {
    "ingest": "tables/*/part-*", "split": "tables/windows/part-*", "vocabulary": "tables/vocabularies/**/part-*",
    "sequences": "tables/sequences/**/part-*", "train": "checkpoints/*/*run.safetensors*",
    "baseline": "tables/blocks/block=baseline/**/part-*", "counters": "tables/blocks/block=counters/**/part-*",
    "embed": "tables/blocks/block=product_buy/**/part-*", "profile": "tables/profiles/**/part-*",
    "targets": "tables/labels/**/part-*", "probe": "tables/scores/**/part-*",
    "factorisation": "tables/blocks/block=als_category/**/part-*", "graph": "tables/edges/_delta_log/*.json",
    "interactions": ".interactions/rows/part-*",
}  # fmt: skip
"""Stage -> the first of what it writes; of ``graph`` and ``interactions``, what they then train on."""
WRITTEN = {
    "ingest": [f"tables/{name}/_delta_log/*.json" for name in (*BEHAVIOURS, "product_properties", "quarantine")],
    "split": ["tables/windows/_delta_log/*.json", "tables/clients/_delta_log/*.json"],
    "vocabulary": ["tables/vocabularies/_delta_log/*.json"],
    "sequences": ["tables/sequences/_delta_log/*.json"],
    "train": [f"models/{name}/config.json" for name in MODELS],
    "baseline": ["tables/block_columns/block=baseline/part-*"],
    "embed": [f"tables/block_columns/block={name}/part-*" for name in MODELS],
    "profile": [f"entries/{name}/embeddings.npy" for name in ENTRIES],
    "targets": ["tables/labels/_delta_log/*.json", "tables/targets/_delta_log/*.json"],
    "probe": ["scores.json"],
    "report": ["report.html"],
}
"""Stage -> the last of what it writes."""
MADE = [name for name in STAGE_NAMES if name in WRITTEN]
"""The stages that these settings give something to do: no block on request is among their blocks."""
WRITTEN_ON_REQUEST = {
    "counters": ["tables/block_columns/block=counters/part-*"],
    "factorisation": ["tables/block_columns/block=als_category/part-*"],
    "graph": ["tables/block_columns/block=graph/part-*"],
    "interactions": ["tables/block_columns/block=interactions/part-*"],
}
"""The same of the stages that make the blocks asked for."""
ASKED_FOR = [
    "--to", "profile", "--set", "ensemble.blocks=[counters,als_category,graph,interactions]", "factorisation.factors=4",
    "factorisation.iterations=2", "graph.dimensions=4", "graph.epochs=4", "interactions.windows_before=[1]",
    "interactions.min_buyers=1", "interactions.n_bins=9", "interactions.ranks=[4]", "interactions.dense_widths=[4]",
]  # fmt: skip
ABOUT = {stage.name: stage.about for stage in STAGES}


def before_write(stage: str, log: Path) -> bool:
    return f"{stage}: {ABOUT[stage]}" in log.read_text()


def in_write(out: Path, stage: str, log: Path, began: int) -> bool:
    return before_write(stage, log) and newest(out.glob(BEGUN[stage])) > began


def after_write(out: Path, written: list[str], began: int) -> bool:
    return all(newest(out.glob(pattern)) > began for pattern in written)


def moments(out: Path, stage: str, log: Path, began: int, written: list[str]) -> dict[str, Callable[[], bool]]:
    return {
        "before": lambda: before_write(stage, log),
        "in": lambda: in_write(out, stage, log, began),
        "after": lambda: after_write(out, written, began),
    }


@pytest.mark.parametrize("stages", [MADE[:5], MADE[5:]], ids=["ingest to train", "after train"])
def test_runs_that_are_killed_in_every_stage_end_as_one_that_was_not(
    shop: Shop, undisturbed: Path, tmp_path: Path, stages: list[str]
) -> None:
    out = tmp_path / "out"
    earlier = MADE[: MADE.index(stages[0])]
    if earlier:
        shop.finish(out, "--to", earlier[-1])
    out.mkdir(exist_ok=True)
    _assert_kills_leave_no_trace(shop, out, undisturbed, {stage: WRITTEN[stage] for stage in stages})


def test_runs_that_are_killed_in_stages_of_blocks_on_request_end_as_one_that_was_not(
    shop: Shop, undisturbed: Path, finished: Path, tmp_path: Path
) -> None:
    expected = Path(shutil.copytree(undisturbed, tmp_path / "expected"))
    shop.finish(expected, *ASKED_FOR)
    _forget(finished, *STAGE_NAMES[STAGE_NAMES.index("counters") :])
    _assert_kills_leave_no_trace(shop, finished, expected, WRITTEN_ON_REQUEST, *ASKED_FOR)


def _assert_kills_leave_no_trace(
    shop: Shop, out: Path, expected: Path, stages: dict[str, list[str]], *more: str
) -> None:
    """Kill runs in each of the stages, let one end, and compare."""
    log, seen = out.parent / "log", {}
    for stage, written in stages.items():
        for name in ("before", "after") if stage == "report" else ("before", "in", "after"):  # one small file
            began, finished = time.time_ns(), finished_stages(out)
            moment = moments(out, stage, log, began, written)[name]
            kill_driver_when(shop.command(out, "run", *more), moment, log)
            was_noted = stage in finished_stages(out)
            was_written = after_write(out, written, began)
            seen[f"{stage}, {name}"] = not was_noted and (name == "after") == was_written
            went_on = f"going on after {finished[-1]}," if finished else f"ingest: {ABOUT['ingest']}"
            assert went_on in log.read_text(), "it began with another stage than the one that was killed"
            if was_noted:  # killed an instant too late: the run after this one must not find it done
                _forget(out, stage)
    shop.finish(out, *more)
    assert_same_outcome(out, expected)
    drafts = [path for path in out.rglob("*") if path.name.endswith((".partial", ".new", ".old"))]
    left = [str(path.relative_to(out)) for path in [*drafts, *out.glob(".*")]]
    assert left == [], "of killed writes"
    tell(f"moments met: {sum(seen.values())} of {len(seen)}; not: {[name for name, was in seen.items() if not was]}")
    assert sum(seen.values()) >= len(seen) - 3, seen


def _forget(out: Path, *stages: str) -> None:
    with changed_records(Workspace(out)) as records:
        for output, record in list(records.items()):
            if record.stage in stages:
                records[output] = replace(record, made=None)


def test_a_driver_killed_while_two_ranks_train_leaves_none_of_them_and_the_next_run_goes_on(
    shop: Shop, undisturbed: Path, tmp_path: Path
) -> None:
    out, log = unfinished_copy(undisturbed, tmp_path / "out"), tmp_path / "log"
    told = ["--from", "train", "--to", "train", "--set", "training.n_ranks=2", "training.epochs=40"]
    began = time.time_ns()
    with started(shop.command(out, "run", *told), log) as process:
        wait_until(lambda: in_write(out, "train", log, began), process, log)
        ranks = ranks_below(process.pid, "horovod")
        process.kill()
        assert len(ranks) == 2
        deadline = time.monotonic() + 30
        while left := [rank for rank in ranks if is_alive(rank)]:
            assert time.monotonic() < deadline, f"ranks still run: {left}"
            time.sleep(0.2)
    n_lines = len(list(read_metrics(out / "metrics.jsonl")))
    shop.finish(out, *told)
    first = next(line for line in list(read_metrics(out / "metrics.jsonl"))[n_lines:] if "train/loss" in line)
    assert first["step"] > 3, "it trained the first steps again, although there was a checkpoint"


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
