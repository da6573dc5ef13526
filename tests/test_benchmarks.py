"""Parts of the benchmarks that made a wrong figure once; each script is imported as it runs, from its own folder."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    for folder in (FOLDER, FOLDER / "peers"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


def test_tables_that_a_killed_process_left_half_made_are_made_again(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = script("inference")
    commands: list[Any] = []
    took = SimpleNamespace(peaks_gib={}, peak_gib=0.0, wall_s=0.0)
    monkeypatch.setattr(inference, "measure", lambda command: commands.append(command) or took)
    place = tmp_path / "1x10"
    (place / "out" / "models").mkdir(parents=True)
    (place / "seconds.json").write_text("1.0")
    inference.measure_run(inference.Run("ubp", 10), tmp_path)
    assert len(commands) == 2, "one to make them, one to measure"
    (place / inference.MADE).touch()
    inference.measure_run(inference.Run("ubp", 10), tmp_path)
    assert len(commands) == 3


def test_tf32_is_left_as_it_was(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = script("probe")
    seen: list[bool] = []

    def steps() -> Any:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        yield torch.tensor(1.0)

    monkeypatch.setattr(probe, "list_sides", lambda *_: [probe.Side("ubp", None, steps())])
    probe.measure_tf32(None, None, None)
    assert seen == [True]
    assert not torch.backends.cuda.matmul.allow_tf32


def test_batches_of_one_shape_are_batches_of_rows(script: Script) -> None:
    workload = SimpleNamespace(batch_size=2, sequences=lambda: [np.array([item, item]) for item in range(1, 9)])
    batches = list(script("run_ubp").like_length_batches(workload, np.random.default_rng(0)))
    assert [batch.shape for batch in batches] == [(2, 8)] * 4
    assert len({int(token) for batch in batches for token in batch.token_ids[:, -1]}) == 8


def test_data_of_other_sizes_are_not_measured(script: Script, tmp_path: Path) -> None:
    targets, made = script("targets"), tmp_path / "made.json"
    targets.require_same_data(made, {"clients": 1, "events": 2})
    made.write_text(json.dumps({"clients": 1, "events": 2}))
    targets.require_same_data(made, {"clients": 1, "events": 2})
    with pytest.raises(SystemExit, match=r"expected data of .*'clients': 3.*found .*'clients': 1"):
        targets.require_same_data(made, {"clients": 3, "events": 2})
