"""What MLflow is told of a run: by its own file store where it is installed, and by its API in a stand-in."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conf.load import load_config
from jobs.reporting.mlflow_runs import list_figures, track_run
from jobs.storage.workspace import Workspace
from schemas.errors import ConfigError

LINES = [
    {"time": "2026-01-01T00:00:00+00:00", "stage": "ingest", "stage/seconds": 1.5, "stage/rows": 10},
    {"time": "2026-01-01T00:00:01+00:00", "behaviour": "page_visit", "step": 50, "train/loss": 2.0, "run": "a/b"},
    {"time": "2026-01-01T00:00:02+00:00", "behaviour": "page_visit", "step": 99, "validation/ndcg@10": 0.25},
    {"time": "2026-01-01T00:00:03+00:00", "entry": "ensemble+baseline", "stage": "probe", "probe/churn/score": 0.75},
    {"time": "2026-01-01T00:00:04+00:00", "table": "scores", "stage": "probe", "table/rows": 6},
]
CONFIG = load_config("demo", ["tracking.experiment=shop", "training.learning_rate=0.005"])


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    workspace.metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (workspace.out / "report.html").write_text("<html>")
    (workspace.out / "scores.json").write_text("{}")
    return workspace


def test_each_number_of_a_run_is_told_once_with_its_time_and_step() -> None:
    second = 1_767_225_600_000
    assert list(list_figures(LINES)) == [
        ("stage/seconds/ingest", 1.5, second, 0),
        ("stage/rows/ingest", 10.0, second, 0),
        ("train/loss/page_visit", 2.0, second + 1000, 50),
        ("validation/ndcg_at_10/page_visit", 0.25, second + 2000, 99),
        ("probe/churn/score/ensemble_baseline", 0.75, second + 3000, 0),
        ("table/rows/scores", 6.0, second + 4000, 0),
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed; `make test-dbr` has it"
)
def test_mlflows_file_store_holds_settings_figures_and_the_report(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run_id = track_run(CONFIG, finished)
    run = mlflow.MlflowClient().get_run(run_id)
    assert run.data.params["training.learning_rate"] == "0.005"
    assert run.data.params["behaviours.page_visit.item"] == "url"
    assert run.data.metrics["train/loss/page_visit"] == 2.0
    assert [each.step for each in mlflow.MlflowClient().get_metric_history(run_id, "train/loss/page_visit")] == [50]
    names = {each.path for each in mlflow.MlflowClient().list_artifacts(run_id)}
    assert names == {"report.html", "scores.json"}


def test_the_calls_that_mlflow_gets(finished: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the names and signatures that are used; calls hold at most what one call may."""
    calls: list[tuple[str, Any]] = []

    class Run:
        info = SimpleNamespace(run_id="7")

        def __enter__(self) -> "Run":
            return self

        def __exit__(self, *_: object) -> None:
            calls.append(("end", None))

    class Client:
        def log_batch(self, run_id: str, metrics: list[Any] = [], params: list[Any] = []) -> None:  # noqa: B006
            assert run_id == "7"
            assert len(params) <= 100
            assert len(metrics) <= 1000
            for name, *_ in (*metrics, *params):
                if not re.fullmatch(r"[/\w.\- ]+", name):
                    raise ValueError(f"Invalid metric name: {name!r}")  # MLflow's MlflowException
            calls.append(("batch", (metrics, params)))

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.__dict__.update(
        set_experiment=lambda name: calls.append(("experiment", name)),
        start_run=Run,
        MlflowClient=Client,
        log_artifact=lambda path: calls.append(("artifact", Path(path).name)),
    )
    entities.__dict__.update(Metric=lambda *values: values, Param=lambda key, value: (key, value))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)

    assert track_run(CONFIG, finished) == "7"
    batches = [what for name, what in calls if name == "batch"]
    parameters = dict(pair for _, pairs in batches for pair in pairs)
    assert parameters["training.learning_rate"] == "0.005"
    assert [each for metrics, _ in batches for each in metrics] == list(list_figures(LINES))
    others = [call for call in calls if call[0] != "batch"]
    assert others == [
        ("experiment", "shop"), ("artifact", "report.html"), ("artifact", "scores.json"), ("end", None),
    ]  # fmt: skip


def test_without_mlflow_the_setting_is_refused_with_what_to_do(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="pip install mlflow-skinny"):
        track_run(CONFIG, finished)
