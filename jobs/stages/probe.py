"""probe: scores of entries on the six tasks.

Reads ``entries/*`` or the entries that it is given, ``targets``, ``labels``, ``clients`` and ``windows``; writes
``scores`` and ``scores.json``, and keeps what it has scored in ``probe_units.json``. The units of work run side by
side on the executors.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.evaluation.comparison import figures
from jobs.evaluation.scores import score_entries
from jobs.storage.delta_tables import write_table
from jobs.storage.files import write_json
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from schemas.tables import SCORES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace, entries: Sequence[Path] = ()) -> None:
    """Write one row per entry and task.

    Parameters
    ----------
    entries : folders; all of the workspace's where none is named
    """
    scores = score_entries(spark, config, workspace, entries)
    rows, as_json = [], {}
    for entry, of_entry in scores.items():
        as_json[entry] = {task: figures(result) for task, result in of_entry.items()}
        for task, result in of_entry.items():
            # a result's fields follow the columns of the table
            rows.append((entry, task, *asdict(result).values()))
            # a line of metrics holds numbers alone
            named = {f"probe/{task}/{name}": value for name, value in as_json[entry][task].items() if name != "repeats"}
            append_metrics(workspace.metrics, {"entry": entry, **named})
    write_table(spark.createDataFrame(rows, SCORES.ddl), workspace, SCORES)
    write_json(workspace.out / "scores.json", as_json, indent=2)
    append_metrics(workspace.metrics, {"folders": ["scores.json"]})


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("probe")
