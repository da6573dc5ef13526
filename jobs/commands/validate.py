"""Whom an entry must hold: the clients that a challenge directory names, or that the pipeline derives from it."""

import logging
import tempfile
from pathlib import Path

import numpy as np

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import RELEVANT_CLIENTS, check_challenge, read_id_array
from jobs.storage.workspace import Workspace

log = logging.getLogger(__name__)


def find_relevant_clients(data: Path, config: PipelineConfig, verbose: bool) -> np.ndarray:
    """The relevant clients, int64 [N], each once.

    Read from ``input/relevant_clients.npy``, without Spark, where it is there. Else the stages ingest and split run
    in a folder that is removed afterwards; with ``verbose`` Spark's log stays on the terminal.

    Raises
    ------
    InputError
        If the file, or what the stages read, cannot be used.
    """
    listed = read_id_array(data / RELEVANT_CLIENTS)
    if listed is not None:
        return listed
    check_challenge(data, config)
    log.info("%s has no %s: deriving the relevant clients from its events", data, RELEVANT_CLIENTS)
    # not at the top: a directory that names its clients is answered without Spark
    from jobs.inputs.data_files import is_small
    from jobs.pipeline.registry import find_stage
    from jobs.runtime.session import build_session
    from jobs.storage.delta_tables import read_as_files
    from jobs.storage.entry_files import read_client_ids, snapshot_files
    from schemas.tables import CLIENTS

    with tempfile.TemporaryDirectory(prefix="ubp-clients-") as folder:
        workspace = Workspace(Path(folder), data)
        workspace.prepare()
        log_file = None if verbose else workspace.logs / "spark.log"
        spark = build_session(config.spark, log_file, is_small=is_small(workspace, config))
        for stage in ("ingest", "split"):
            find_stage(stage).run(spark, config, workspace)
        return read_client_ids(snapshot_files(read_as_files(spark, workspace, CLIENTS)))
