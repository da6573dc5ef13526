"""ubp's own data stages on one behaviour, page visits, as the benchmarks run them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from conf.spark import SparkSettings
from jobs.inputs.sources import ChallengeInputs
from jobs.runtime.session import build_session
from jobs.stages.ingest import write_source
from jobs.stages.sequences import write_sequences
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.stored_rows import StoredRows, stored_rows
from jobs.storage.workspace import Workspace
from jobs.transforms.sequences import build_sequences, collect_if_small
from jobs.transforms.vocabulary import collect_n_items, count_items, number_items
from schemas.behaviours import ItemKind
from schemas.tables import VOCABULARIES

SOURCE = "page_visit.parquet"
LAST = 128
MIN_COUNT = 5


class Stages:
    """Wall time of each stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block under the name of a stage."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def start_session(log_file: Path, n_cores: int = 2) -> SparkSession:
    """A local session with a heap of 2 GiB."""
    return build_session(SparkSettings(f"local[{n_cores}]", driver_memory="2g", shuffle_partitions=64), log_file)


@dataclass(frozen=True)
class SparkWork:
    """What Spark's own metrics say of a stage of ours.

    Attributes
    ----------
    n_tasks : that ran
    shuffled_bytes : written for other tasks to read, compressed
    """

    n_tasks: int
    shuffled_bytes: int


def list_spark_stages(spark: SparkSession, quantiles: tuple[float, ...] = ()) -> list[Any]:
    """Spark's records of its stages so far, of the JVM's class ``StageData``."""
    store: Any = spark.sparkContext._jsc.sc().statusStore()
    asked = spark.sparkContext._gateway.new_array(spark.sparkContext._jvm.double, len(quantiles))
    for place, quantile in enumerate(quantiles):
        asked[place] = quantile
    stages = store.stageList(None, False, bool(quantiles), asked, None)
    return [stages.apply(number) for number in range(stages.size())]


@contextmanager
def _watch(spark: SparkSession, work: dict[str, SparkWork], name: str) -> Iterator[None]:
    before = {stage.stageId() for stage in list_spark_stages(spark)}
    yield
    new = [stage for stage in list_spark_stages(spark) if stage.stageId() not in before]
    work[name] = SparkWork(sum(s.numCompleteTasks() for s in new), sum(s.shuffleWriteBytes() for s in new))


class VisitsAlone(ChallengeInputs):
    """A directory without purchases and products, which a pipeline would refuse."""

    def __init__(self, spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
        self.spark, self.config, self.workspace = spark, config, workspace


def run_stages(spark: SparkSession, workspace: Workspace, stages: Stages) -> dict[str, SparkWork]:
    """Source files -> typed events, vocabulary and last sequences in ``tables``; exact duplicates are not counted.

    Returns
    -------
    name of the stage -> what Spark did for it
    """
    told = [f"encoders.page_visit.max_length={LAST}", f"behaviours.page_visit.min_count={MIN_COUNT}"]
    config = load_config("report", [*told, "ingest.count_duplicates=false"])
    write = partial(write_table, workspace=workspace, is_log=True, keep_partitions=True)
    work: dict[str, SparkWork] = {}
    with stages("typed events"), _watch(spark, work, "typed events"):
        visits = VisitsAlone(spark, config, workspace).events("page_visit")
        assert visits is not None, f"no page_visit.parquet in {workspace.data}"
        write_source(visits, config.ingest, write)
    events = stored_rows(read_table(spark, workspace, config.events_table("page_visit")))
    with stages("vocabulary"), _watch(spark, work, "vocabulary"), ExitStack() as cached:
        max_rows = events.max_rows if isinstance(events, StoredRows) else None
        vocabulary = number_items(count_items(events, "url", MIN_COUNT), "page_visit", cached, max_rows)
        write_table(vocabulary, workspace, VOCABULARIES)
    with stages("sequences"), _watch(spark, work, "sequences"), ExitStack() as cached:
        vocabulary = read_table(spark, workspace, VOCABULARIES)
        words = collect_if_small(vocabulary, collect_n_items(vocabulary)["page_visit"], ItemKind.ID, config.sequences)
        write_sequences(build_sequences(events, words, "page_visit", config, cached), config, workspace)
    return work
