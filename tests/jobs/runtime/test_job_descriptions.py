"""Spark's UI and event log tell jobs by the stage that they belong to."""

from pyspark.sql import SparkSession

from jobs.runtime.progress import spark_progress
from jobs.runtime.rank_launcher import _jobs_described

DESCRIPTION = "spark.job.description"


def test_jobs_of_a_stage_carry_its_name(spark: SparkSession) -> None:
    with spark_progress(spark.sparkContext, "split"):
        assert spark.sparkContext.getLocalProperty(DESCRIPTION) == "split"


def test_horovods_job_carries_the_stages_name_and_not_its_own(spark: SparkSession) -> None:
    context = spark.sparkContext
    try:
        with _jobs_described(spark, "train"):
            context.setJobGroup("horovod.spark.run.0", "Horovod Spark Run", interruptOnCancel=True)
            assert context.getLocalProperty(DESCRIPTION) == "train"
            assert context.getLocalProperty("spark.jobGroup.id") == "horovod.spark.run.0"
        context.setJobGroup("others", "their own words")
        assert context.getLocalProperty(DESCRIPTION) == "their own words"
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        context.setLocalProperty(DESCRIPTION, None)  # type: ignore[arg-type]
