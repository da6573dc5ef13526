"""A finished run in MLflow: its settings, its figures over the steps, its scores and its report.

MLflow is no requirement of ubp; Databricks has it. Where it keeps runs (``MLFLOW_TRACKING_URI``, credentials) is for
its own environment to say: no setting of ours holds it.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any

from conf.load import flat_settings
from conf.pipeline import PipelineConfig
from jobs.storage.metrics_log import read_metrics
from jobs.storage.workspace import Workspace
from schemas.errors import ConfigError

log = logging.getLogger(__name__)

OWNERS = ("behaviour", "entry", "table", "source", "read", "stage")
"""Keys of a line of ``metrics.jsonl`` that say whose its figures are; the first one there counts."""


def track_run(config: PipelineConfig, workspace: Workspace) -> str:
    """Make one MLflow run of all that ``--out`` holds; its id.

    Raises
    ------
    ConfigError
        If MLflow is not installed.
    """
    try:
        import mlflow
        from mlflow.entities import Metric, Param
    except ModuleNotFoundError as error:
        raise ConfigError(
            "tracking.mlflow=true: expected the package mlflow or mlflow-skinny, found none; install it "
            "(pip install mlflow-skinny) or leave the setting out"
        ) from error
    mlflow.set_experiment(config.tracking.experiment)
    with mlflow.start_run() as run:
        client = mlflow.MlflowClient()
        parameters = [Param(key, str(value)) for key, value in flat_settings(asdict(config))]
        for start in range(0, len(parameters), 100):  # MLflow's limit for one call
            client.log_batch(run.info.run_id, params=parameters[start : start + 100])
        figures = (Metric(*figure) for figure in list_figures(read_metrics(workspace.metrics)))
        # MLflow's limit again
        while batch := list(islice(figures, 1000)):
            client.log_batch(run.info.run_id, metrics=batch)
        for name in ("report.html", "scores.json", "config.yaml"):
            if (workspace.out / name).exists():
                mlflow.log_artifact(str(workspace.out / name))
    log.info("  MLflow run %s of experiment %s", run.info.run_id, config.tracking.experiment)
    return str(run.info.run_id)


def list_figures(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
    """The numbers of ``metrics.jsonl``, each under its key and whose it is: ``train/loss/page_visit`` by step.

    Name, value, milliseconds since 1970 and step of each. Names hold what MLflow allows: ``@`` of ``ndcg@10`` becomes
    ``_at_``, any other sign ``_``, as ``+`` of ``ensemble+baseline``. What is not a number is left out.
    """
    for line in lines:
        owner = next((str(line[key]) for key in OWNERS if key in line), None)
        milliseconds = int(datetime.fromisoformat(line["time"]).timestamp() * 1000)
        for key, value in line.items():
            # the keys of figures have a slash, those of a line's step and epoch have none
            if "/" in key and isinstance(value, int | float) and not isinstance(value, bool):
                name = f"{key}/{owner}" if owner else key
                allowed = re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"), flags=re.ASCII)
                yield allowed, float(value), milliseconds, int(line.get("step", 0))
