"""ubp's own data stages on one behaviour, page visits, as the benchmarks run them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from conf.load import load_config
from conf.settings import SparkSettings
from jobs.build_sequences import write_sequences
from jobs.ingest_events import events_source, write_events
from jobs.io import read_table, write_table
from jobs.session import build_session
from jobs.transforms.sequences import build_sequences, hint_broadcast
from jobs.transforms.vocabulary import build_vocabulary, collect_n_items
from jobs.workspace import Workspace
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


def run_stages(spark: SparkSession, workspace: Workspace, stages: Stages) -> None:
    """Source files -> typed events, vocabulary and last sequences in ``tables``; exact duplicates are not counted."""
    settings = {"max_sequence_length": LAST, "min_count": MIN_COUNT}
    told = [f"behaviours.page_visit.{key}={value}" for key, value in settings.items()]
    config = load_config("report", [*told, "ingest.count_duplicates=false"])
    write = partial(write_table, workspace=workspace, is_log=True, keep_partitions=True)
    with stages("typed events"):
        write_events(events_source(spark, config, workspace, "page_visit"), config.ingest, workspace, write)
    events = read_table(spark, workspace, config.events_table("page_visit"))
    with stages("vocabulary"):
        write_table(build_vocabulary(events, "page_visit", "url", MIN_COUNT), workspace, VOCABULARIES)
        spark.catalog.clearCache()
    with stages("sequences"):
        vocabulary = read_table(spark, workspace, VOCABULARIES)
        words = hint_broadcast(vocabulary, collect_n_items(vocabulary)["page_visit"], config, "page_visit")
        write_sequences(build_sequences(events, words, "page_visit", config), config, workspace)
