"""Texts -> the rows that they add to ``tables/ids``.

A new text's integer is its rank among the new ones of its kind, after the highest that is there, so that a second
ingest of more data keeps the integers of the first.
"""

from contextlib import ExitStack
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.runtime.caching import cache_rows
from jobs.transforms.ranks import with_global_rank
from schemas.columns import ID, KEY, KIND


def number_new(texts: DataFrame, former: DataFrame, ingest: int, cached: ExitStack) -> DataFrame:
    """One row per text that has no integer yet, as ``tables/ids`` has them.

    Parameters
    ----------
    texts : columns kind and key, any number of rows of each; a null is none
    former : rows of ``tables/ids``
    ingest : number of the ingest that gives the integers
    cached : keeps the new texts cached, see ``with_global_rank``
    """
    met = texts.filter(F.col(KEY).isNotNull()).distinct()
    # each kind reads it again
    new = cache_rows(met.join(former.select(KIND, KEY), on=[KIND, KEY], how="left_anti"), cached)
    highest = {row[KIND]: row["highest"] for row in former.groupBy(KIND).agg(F.max(ID).alias("highest")).collect()}
    ranked = [
        with_global_rank(new.filter(F.col(KIND) == kind), [F.col(KEY)], ID, cached, 1 + highest.get(kind, 0))
        for kind in sorted(row[KIND] for row in new.select(KIND).distinct().collect())
    ]
    # begins with no rows: there may be no new text of any kind
    numbered = reduce(DataFrame.unionByName, ranked, former.filter(F.lit(False)).select(KIND, KEY, ID))
    return numbered.select(F.lit(ingest).cast("bigint").alias("ingest"), KIND, KEY, ID)
