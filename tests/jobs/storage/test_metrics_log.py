"""The log of figures: whose lines are read."""

from pathlib import Path

import pytest

from jobs.storage import metrics_log
from jobs.storage.metrics_log import (
    append_blocks,
    append_metrics,
    lines_of_stage,
    log_size,
    read_block_seconds,
    read_metrics,
)


def test_a_stage_reads_the_lines_that_came_since_it_began_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, parsed = tmp_path / "metrics.jsonl", []
    parse = metrics_log.parse_line
    monkeypatch.setattr(metrics_log, "parse_line", lambda line: parsed.append(line) or parse(line))
    assert log_size(path) == 0
    assert list(read_metrics(path)) == []
    for step in range(20):
        append_metrics(path, {"step": step})
    start = log_size(path)
    append_metrics(path, {"step": 20})
    with path.open("ab") as file:
        file.write(b'{"step": 2\n\xff\n')  # of a killed run
    append_metrics(path, {"step": 21})
    assert [line["step"] for line in read_metrics(path, start)] == [20, 21]
    assert len(parsed) == 4
    assert [line["step"] for line in read_metrics(path)] == list(range(22))


def test_a_blocks_time_is_that_of_its_part_of_the_stage_and_of_its_encoders_newest_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "metrics.jsonl", [100.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: clock[0])
    begun, seconds = "begins_at", "train/seconds"
    trained: list[tuple[int, int, str, float]] = [(1, 0, begun, 0), (1, 5, seconds, 1.0)]  # an earlier training
    trained += [(1, 0, begun, 0), (1, 5, seconds, 8.0), (1, 8, seconds, 64.0)]  # the newest: killed at step 8,
    trained += [(1, 5, begun, 5), (1, 7, seconds, 128.0), (2, 12, seconds, 16.0)]  # and at step 12
    trained += [(2, 8, begun, 8), (2, 10, seconds, 32.0)]
    for epoch, step, key, value in trained:
        append_metrics(path, {"behaviour": "visits", "epoch": epoch, "step": step, key: value})
    # by an earlier version, which did not say where a training begins
    for epoch, step, value in [(1, 5, 1.0), (2, 10, 2.0), (1, 5, 4.0), (2, 12, 8.0), (2, 10, 16.0)]:
        line = {"behaviour": "searches", "epoch": epoch, "step": step, "train/loss": 1.0, "train/seconds": value}
        append_metrics(path, line)
    # its first epoch is in a log that is lost
    append_metrics(path, {"behaviour": "late", "epoch": 2, "step": 7, "train/seconds": 5.0})
    with lines_of_stage("embed"):
        clock[0] += 15
        append_blocks(path, ["visits", "searches", "buys"])
    with lines_of_stage("counters"):
        clock[0] += 3
        append_blocks(path, ["activity"])
        append_blocks(path, [])  # removed: no time is its own
        clock[0] += 7
        append_blocks(path, ["counters"])
        append_blocks(path, ["late"])
    made_in = {
        "visits": 5 + 8 + 64 + 128 + 16 + 32,
        "searches": 5 + 4 + 8 + 16,
        "buys": 5.0,
        "activity": 3.0,
        "counters": 7.0,
        "late": 5.0,
    }
    assert read_block_seconds(path) == made_in
