"""baseline: the organisers' aggregated features as the block ``baseline``.

Reads the typed events, ``product_properties``, ``windows`` and ``clients``; writes its rows of ``blocks`` and
``block_columns``.
"""

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.organiser_features import collect_organiser_features
from jobs.blocks.table import write_block
from jobs.storage.delta_tables import read_ingested, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import read_windows
from schemas.columns import SKU
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block ``baseline``; clients without an input event are not present."""
    cutoff = read_windows(spark, workspace).input_end
    products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    clients = read_table(spark, workspace, CLIENTS)
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    with_columns = {
        name: purchases_with_properties(frame, products) if config.behaviours[name].item == SKU else frame
        for name, frame in events.items()
    }
    block, vectors = collect_organiser_features(with_columns, clients, cutoff, config.behaviours)
    write_block(block, vectors, clients, cutoff, workspace)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("baseline")
