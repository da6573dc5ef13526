"""Who takes part where clients and items meet in pairs, and by which number: the heaviest first."""

from contextlib import ExitStack

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.ranks import with_global_rank
from schemas import columns as c

WEIGHT, CLIENT_NUMBER = "weight", "client_number"


def number_clients(pairs: DataFrame, clients: DataFrame, cached: ExitStack) -> DataFrame:
    """The clients of the pairs: ``client_id``, ``is_given``, ``client_number`` bigint.

    Numbers follow falling weight, then id, so that they depend on the pairs alone; the given clients come first.

    Parameters
    ----------
    pairs : ``client_id``, ``item``, ``weight``
    clients : the given ones; one without a pair gets no number
    """
    is_given = clients.select(c.CLIENT_ID, F.lit(True).alias("is_given"))
    totals = pairs.groupBy(c.CLIENT_ID).agg(F.sum(WEIGHT).alias("total")).join(is_given, on=c.CLIENT_ID, how="left")
    given_first = [F.col("is_given").desc_nulls_last(), F.col("total").desc(), F.col(c.CLIENT_ID)]
    return with_global_rank(totals, given_first, CLIENT_NUMBER, cached).drop("total")


def number_items(pairs: DataFrame, max_items: int, cached: ExitStack, min_pairs: int = 1) -> DataFrame:
    """The ``max_items`` items of the largest weight, then id: ``item``, ``item_number`` int; none of fewer pairs."""
    totals = pairs.groupBy(c.ITEM).agg(F.sum(WEIGHT).alias("total"), F.count("*").alias("n"))
    totals = totals.filter(F.col("n") >= min_pairs).drop("n")
    numbered = with_global_rank(totals, [F.col("total").desc(), F.col(c.ITEM)], c.ITEM_NUMBER, cached)
    return numbered.filter(F.col(c.ITEM_NUMBER) < max_items).select(c.ITEM, F.col(c.ITEM_NUMBER).cast("int"))
