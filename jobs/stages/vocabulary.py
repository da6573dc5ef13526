"""Vocabulary: items of the input events -> token ids, per behaviour."""

import logging
import sys
from contextlib import ExitStack
from functools import reduce

from pyspark.sql import DataFrame, SparkSession

from conf.pipeline import PipelineConfig
from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.delta_tables import read_ingested, read_table, write_table
from jobs.storage.stored_rows import stored_rows
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import build_vocabulary, collect_summaries
from jobs.transforms.windows import collect_windows
from schemas.errors import InputError
from schemas.tables import VOCABULARIES, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per behaviour and item."""
    windows = collect_windows(read_table(spark, workspace, WINDOWS))
    with ExitStack() as cached:

        def build(name: str) -> DataFrame:
            events = stored_rows(read_ingested(spark, workspace, config.events_table(name)), windows.input_end)
            behaviour = config.behaviours[name]
            return build_vocabulary(events, name, behaviour.item, behaviour.min_count, cached)

        vocabularies = map_side_by_side(build, config.behaviours)
        # all behaviours in one commit: a reader finds vocabularies of one run
        write_table(reduce(DataFrame.unionByName, vocabularies), workspace, VOCABULARIES)
    found = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    for name in config.behaviours:
        if name not in found:
            log.info("  %s: no item with enough events before %s, left out", name, windows.input_end)
    if not found:
        raise InputError(
            f"no behaviour has an item with enough events before {windows.input_end}; the data is too short"
        )


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("vocabulary"))
