"""split: where the windows lie and which clients are profiled.

Reads the typed events, ``input/relevant_clients.npy`` and ``target/active_clients.npy`` (each derived where
it is missing); writes ``windows`` and ``clients``.
"""

import logging
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import ACTIVE_CLIENTS, RELEVANT_CLIENTS, read_id_array
from jobs.storage.delta_tables import read_ingested, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.clients import clients_in_order, clients_with_events, with_activity
from jobs.transforms.windows import Windows, collect_last_timestamp, derive_windows, input_events, windows_frame
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import InputError
from schemas.tables import CLIENTS, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the one row of windows and one row per relevant client."""
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    windows = collect_boundaries(events, config)
    log.info(
        "  input < %s, train from %s, validation from %s", windows.input_end, windows.train_start, windows.valid_start
    )
    inputs = {name: input_events(frame, windows) for name, frame in events.items()}
    write_table(windows_frame(spark, windows), workspace, WINDOWS)
    with ExitStack() as cached:
        write_table(relevant_clients(spark, inputs, workspace.data, cached), workspace, CLIENTS)


def collect_boundaries(events: dict[str, DataFrame], config: PipelineConfig) -> Windows:
    """The windows that the events call for; InputError where there is no purchase to date them by."""
    end = collect_last_timestamp(events[PRODUCT_BUY]) if PRODUCT_BUY in events else None
    if end is None:
        raise InputError(
            f"expected purchases ({PRODUCT_BUY}): the last one dates the windows; found none among the behaviours "
            f"{sorted(events)}; name {PRODUCT_BUY} in the configuration and give it events"
        )
    others = [collect_last_timestamp(frame) for name, frame in events.items() if name != PRODUCT_BUY]
    return derive_windows(end, config.windows, max([end, *filter(None, others)]))


def relevant_clients(spark: SparkSession, inputs: dict[str, DataFrame], data: Path, cached: ExitStack) -> DataFrame:
    """The clients table: in the order of the challenge's file, or every client with an input event, by id.

    Parameters
    ----------
    inputs : behaviour -> input events
    data : the challenge directory
    cached : keeps derived clients cached, see ``with_global_rank``

    Raises
    ------
    InputError
        If no file names the clients and there is no input event.
    """
    relevant = read_id_array(data / RELEVANT_CLIENTS)
    listed_active = read_id_array(data / ACTIVE_CLIENTS)
    in_order = partial(clients_in_order, spark)
    clients = clients_with_events(list(inputs.values()), cached) if relevant is None else in_order(relevant)
    if clients.isEmpty():
        raise InputError(
            f"expected events before the train target window, found none in {data}; give a longer history, "
            "fewer windows.target_days, or input/relevant_clients.npy"
        )
    return with_activity(clients, inputs[PRODUCT_BUY] if listed_active is None else in_order(listed_active))


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("split"))
