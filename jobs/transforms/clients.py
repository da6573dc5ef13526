"""The relevant clients: whom to profile, in which row, and who is active."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.transforms.ranks import with_global_rank
from schemas import columns as c


def clients_in_order(spark: SparkSession, client_ids: np.ndarray) -> DataFrame:
    """One row per given id: its ``position`` in the array, ``client_id``.

    Parameters
    ----------
    client_ids : int64 [N], each once
    """
    # Arrow carries columns of pandas to the JVM; the rows of a list would be pickled one by one
    return spark.createDataFrame(pd.DataFrame({c.POSITION: np.arange(len(client_ids)), c.CLIENT_ID: client_ids}))


def clients_with_events(events: Sequence[DataFrame], cached: ExitStack) -> DataFrame:
    """One row per client with an event in any of the frames: ``position`` by rising id, ``client_id``.

    Parameters
    ----------
    cached : keeps the sorted ids cached, see ``with_global_rank``
    """
    ids = reduce(DataFrame.unionByName, (frame.select(c.CLIENT_ID) for frame in events)).distinct()
    return with_global_rank(ids, [F.col(c.CLIENT_ID)], c.POSITION, cached).select(c.POSITION, c.CLIENT_ID)


def with_activity(clients: DataFrame, active: DataFrame) -> DataFrame:
    """The clients table: one row per client; ``is_active`` where ``active`` has a row of the client.

    Parameters
    ----------
    active : any number of rows per client, e.g. the purchases of the input window
    """
    flags = active.select(c.CLIENT_ID).distinct().withColumn(c.IS_ACTIVE, F.lit(True))
    return clients.join(flags, on=c.CLIENT_ID, how="left").select(
        c.POSITION, c.CLIENT_ID, F.coalesce(c.IS_ACTIVE, F.lit(False)).alias(c.IS_ACTIVE)
    )


def rows_of_clients(rows: DataFrame, clients: DataFrame) -> DataFrame:
    """The rows (of events, sequences) of the given clients; grain and columns unchanged."""
    return rows.join(clients.select(c.CLIENT_ID), on=c.CLIENT_ID, how="left_semi")
