"""Works of a stage that start Spark jobs at once."""

import threading

import pytest
from pyspark.sql import SparkSession

from jobs.runtime.side_by_side import run_side_by_side
from jobs.storage.metrics_log import _running, lines_of_stage


def test_works_run_at_once_and_their_results_are_in_order(spark: SparkSession) -> None:
    both_are_here = threading.Barrier(2, timeout=60)

    def work() -> str | None:
        both_are_here.wait()
        spark.range(3).count()
        return spark.sparkContext.getLocalProperty("spark.job.description")

    spark.sparkContext.setJobDescription("the stage")
    assert run_side_by_side([work, work]) == ["the stage"] * 2
    assert run_side_by_side([]) == []


def test_figures_of_threads_belong_to_the_running_stage() -> None:
    with lines_of_stage("ingest"):
        assert run_side_by_side([_running.get, _running.get]) == ["ingest"] * 2


def test_an_error_of_one_work_is_raised_once_the_others_have_ended() -> None:
    ended = []

    def fail() -> None:
        raise ValueError("no such table")

    with pytest.raises(ValueError, match="no such table"):
        run_side_by_side([fail, lambda: ended.append("other")])
    assert ended == ["other"]
