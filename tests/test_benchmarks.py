"""Parts of the benchmarks that made a wrong figure once; each script is imported as it runs, from its own folder."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from optional import HAS_HOROVOD

FOLDER = Path(__file__).parents[1] / "benchmarks"
Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    for folder in (FOLDER, FOLDER / "peers"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_each_script_finds_what_it_imports(script: Script, name: str) -> None:
    if name == "train_scaling" and not HAS_HOROVOD:
        pytest.skip("there is no Horovod, which it measures")
    if name in ("blocks", "scaling", "sequences"):
        pytest.importorskip("polars")  # what they measure beside, which a platform's versions lack
    script(name)


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


@pytest.fixture
def next_item(script: Script, tmp_path: Path) -> tuple[ModuleType, Path]:
    """Forty users who take items in a circle, as a leave-one-out file."""
    rows = [(user, (user + step) % 12, step) for user in range(40) for step in range(8)]
    table = pa.table(dict(zip(("user_id", "item_id", "position"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "ml-1m.parquet")
    return script("next_item"), tmp_path


def test_next_items_are_ranked_among_unseen_ones_and_among_sampled_ones(
    next_item: tuple[ModuleType, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, folder = next_item
    monkeypatch.setattr(script, "N_SAMPLED", 3)
    call = (
        f"--data {folder} --out {folder} --sets ml-1m --encoders popularity gru4rec --minutes 9 --threads 1 --sampled"
    )
    changes = "--sampled --set encoder.training.epochs=25 encoder.hidden_size=8 encoder.training.tokens_per_batch=64 "
    changes += "encoder.training.learning_rate=0.01 encoder.embedding_dropout=0 encoder.encoder_dropout=0 "
    changes += "validation_users=5"
    monkeypatch.setattr("sys.argv", ["next_item.py", *call.split(), *changes.split()])
    script.main()
    found: dict[str, dict[str, float]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("ml-1m, "):
            of_table = found.setdefault(line.removeprefix("ml-1m, "), {})
        if line.startswith(("| gru", "| pop")):
            row = line.strip("| ").split(" | ")
            of_table[row[0]] = float(row[3])
    assert {name: list(of_table) for name, of_table in found.items()} == {
        name: ["popularity", "gru4rec"] for name in (script.SAMPLED, script.FULL)
    }
    assert found[script.FULL]["gru4rec"] > 0.9
    assert found[script.SAMPLED]["gru4rec"] > 0.9
    # three of the four unseen items: fewer stand above
    assert found[script.SAMPLED]["popularity"] > found[script.FULL]["popularity"]
    scores = json.loads((folder / "ml-1m" / "gru4rec-0" / "scores.json").read_text())
    assert scores["is_finished"]
    assert scores["parameters"] == 15 * 8 + 6 * 8 * 8 + 6 * 8


def test_sampled_negatives_are_different_unseen_items_drawn_by_popularity(
    next_item: tuple[ModuleType, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, folder = next_item
    monkeypatch.setattr(script, "N_SAMPLED", 2)
    histories = script.read_histories(folder / "ml-1m.parquet")
    counts = np.full(15, 1.0)
    counts[5] = 1e6
    drawn = script.negatives_of(histories, counts)
    for own, row in zip(drawn, histories.rows(), strict=True):
        assert len({*own.tolist(), *row.tolist()}) == len(row) + 2
        assert own.min() >= 3
        assert 5 in own or 5 in row
