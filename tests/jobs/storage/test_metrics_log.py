"""The log of figures: whose lines are read."""

from pathlib import Path

import pytest

from jobs.storage import metrics_log
from jobs.storage.metrics_log import append_metrics, log_size, read_metrics


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
