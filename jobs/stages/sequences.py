"""Sequences: input events and token ids -> each client's last tokens, laid out for the feed."""

from contextlib import ExitStack
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from conf.sequences import Stream
from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.delta_tables import read_ingested, read_table, write_table
from jobs.storage.stored_rows import StoredRows, stored_rows
from jobs.storage.workspace import Workspace
from jobs.transforms.merged_sequences import build_merged_sequences, collect_merged_vocabulary
from jobs.transforms.sequences import build_sequences, collect_if_small
from jobs.transforms.vocabulary import collect_n_items
from jobs.transforms.windows import read_windows
from schemas.behaviours import ItemKind
from schemas.columns import BEHAVIOUR
from schemas.tables import SEQUENCES, VOCABULARIES


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per stream and client."""
    windows = read_windows(spark, workspace)
    vocabularies = read_table(spark, workspace, VOCABULARIES)
    n_items = collect_n_items(vocabularies)
    with ExitStack() as cached:  # vocabularies stay on the executors until the table is written

        def read_events(name: str) -> StoredRows | DataFrame:
            return stored_rows(read_ingested(spark, workspace, config.events_table(name)), windows.input_end)

        def build(stream: Stream) -> DataFrame:
            own = vocabularies.filter(F.col(BEHAVIOUR) == stream.name)
            if stream.is_merged:
                events = {name: read_events(name) for name in stream.behaviours}
                by_item = collect_merged_vocabulary(own, stream, config)
                return build_merged_sequences(events, by_item, stream, config, cached)
            kind = ItemKind(config.behaviours[stream.name].kind)
            words = collect_if_small(own, n_items.get(stream.name, 0), kind, config.sequences)
            return build_sequences(read_events(stream.name), words, stream.name, config, cached)

        sequences = map_side_by_side(build, config.streams().values())
        write_sequences(reduce(DataFrame.unionByName, sequences), config, workspace)


def write_sequences(sequences: DataFrame, config: PipelineConfig, workspace: Workspace) -> None:
    """Replace ``tables/sequences``, laid out for the feed."""
    rows_per_file, row_group_mib = config.sequences.rows_per_file, config.sequences.row_group_mib
    write_table(sequences, workspace, SEQUENCES, rows_per_file, row_group_mib=row_group_mib, is_log=True)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("sequences")
