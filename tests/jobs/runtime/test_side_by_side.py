"""Works of a stage that start Spark jobs at once."""

import threading
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.metrics_log import append_metrics, lines_of_stage, read_metrics


def test_works_run_at_once_and_their_results_are_in_order(spark: SparkSession) -> None:
    both_are_here = threading.Barrier(2, timeout=60)

    def work(n: int) -> tuple[int, str | None]:
        both_are_here.wait()
        return spark.range(n).count(), spark.sparkContext.getLocalProperty("spark.job.description")

    spark.sparkContext.setJobDescription("the stage")
    assert map_side_by_side(work, [3, 2]) == [(3, "the stage"), (2, "the stage")]
    assert map_side_by_side(work, []) == []


def test_figures_of_threads_belong_to_the_running_stage(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with lines_of_stage("ingest"):
        map_side_by_side(lambda figure: append_metrics(metrics, {"figure": figure}), [1, 2])
    assert [line["stage"] for line in read_metrics(metrics)] == ["ingest"] * 2


def test_an_error_of_one_work_is_raised_once_the_others_have_ended() -> None:
    ended = []

    def work(n: int) -> None:
        if n == 0:
            raise ValueError("no such table")
        ended.append(n)

    with pytest.raises(ValueError, match="no such table"):
        map_side_by_side(work, [0, 1])
    assert ended == [1]
