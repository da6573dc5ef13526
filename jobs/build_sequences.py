"""Sequences: input events and token ids -> each client's last tokens, laid out for the feed."""

import sys
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.settings import PipelineConfig
from jobs.cli import main_stage
from jobs.io import read_table, write_table
from jobs.transforms.sequences import build_sequences
from jobs.transforms.windows import collect_windows, input_events
from jobs.workspace import Workspace
from schemas.columns import BEHAVIOUR, CLIENT_ID, IS_HELD_OUT, WIDTH
from schemas.tables import SEQUENCES, VOCABULARIES, WINDOWS


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per behaviour and client."""
    windows = collect_windows(read_table(spark, workspace, WINDOWS))
    vocabularies = read_table(spark, workspace, VOCABULARIES)
    sequences = reduce(
        DataFrame.unionByName,
        (
            build_sequences(
                input_events(read_table(spark, workspace, config.events_table(name)), windows),
                vocabularies.filter(F.col(BEHAVIOUR) == name),
                name,
                config,
            )
            for name in config.behaviours
        ),
    )
    # one total order within each file: the same table, byte for byte, from one run to the next
    ordered = sequences.sortWithinPartitions(BEHAVIOUR, IS_HELD_OUT, WIDTH, CLIENT_ID)
    write_table(ordered, workspace, SEQUENCES, rows_per_file=config.sequences.rows_per_file)


if __name__ == "__main__":
    sys.exit(main_stage("sequences"))
