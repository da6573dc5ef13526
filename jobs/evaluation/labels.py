"""Labels of the six tasks, by joins: no step looks at one client at a time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas import columns as c
from schemas import tasks

Label = tuple[int, float]
"""Id of a label and its popularity."""

_ID, _LABEL, _N = "id", "label", "n"


def count_values(purchases: DataFrame, earlier: DataFrame) -> DataFrame:
    """One row per propensity task and value that was bought: ``task``, ``id``, ``n`` purchases; no nulls.

    Parameters
    ----------
    purchases : one row per purchase of the train target window, with ``sku``, ``category``, ``price``
    earlier : the purchases before it: a sku among them is not new
    """
    of_skus = [task for task, column in tasks.PROPENSITY.items() if column == c.SKU]
    others = purchases.select(_values([task for task in tasks.PROPENSITY if task not in of_skus])).select("value.*")
    counts = others.filter(F.col(_ID).isNotNull()).groupBy(c.TASK, _ID).agg(F.count("*").alias(_N))
    # an aggregate tells which skus are new: a distinct and an anti-join would move the earlier purchases twice. An
    # earlier purchase has no n: it adds nothing to the sum, and makes count(n) less than count(*)
    sold = purchases.select(c.SKU, F.lit(1).alias(_N)).unionByName(earlier.select(c.SKU, F.lit(None).alias(_N)))
    skus = sold.groupBy(c.SKU).agg(F.sum(_N).alias(_N), (F.count(_N) == F.count("*")).alias("is_new"))
    counted_for = F.explode(F.array(*map(F.lit, of_skus))).alias(c.TASK)
    is_counted = F.col("is_new") | (F.col(c.TASK) != tasks.NEW_SKU)
    of_sku = skus.filter(F.col(_N) > 0).select(counted_for, F.col(c.SKU).alias(_ID), _N, "is_new").filter(is_counted)
    return counts.unionByName(of_sku.select(c.TASK, _ID, _N))


def collect_top_labels(counts: DataFrame, n_labels: int = tasks.MAX_LABELS) -> dict[str, list[Label]]:
    """Task -> its most bought values, ties by rising id, with their popularity; tasks without a purchase are absent.

    Parameters
    ----------
    counts : as ``count_values`` gives them
    """
    totals = _collect_totals(counts)
    # one task ranks few rows: Spark 3.5 keeps the first of each part before the shuffle (WindowGroupLimit)
    rank = F.row_number().over(Window.partitionBy(c.TASK).orderBy(F.col(_N).desc(), F.col(_ID)))
    rows = counts.withColumn("rank", rank).filter(F.col("rank") <= n_labels).collect()
    rows.sort(key=lambda row: (row[c.TASK], row["rank"]))
    return {
        task: [(row[_ID], row[_N] / totals[task]) for row in rows if row[c.TASK] == task]
        for task in dict.fromkeys(row[c.TASK] for row in rows)
    }


def collect_popularity(counts: DataFrame, ids: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    """Popularity of each task's given values, in their order; 0 for those that nobody bought.

    Parameters
    ----------
    counts : as ``count_values`` gives them
    """
    # of the values that are asked for, at most a hundred a task: there may be millions of others
    wanted = F.lit(False)
    for task, of_task in ids.items():
        wanted = wanted | ((F.col(c.TASK) == task) & F.col(_ID).isin(list(of_task)))
    totals = _collect_totals(counts)
    found = {(row[c.TASK], row[_ID]): row[_N] / totals[row[c.TASK]] for row in counts.filter(wanted).collect()}
    return {task: [found.get((task, label), 0.0) for label in of_task] for task, of_task in ids.items()}


def _collect_totals(counts: DataFrame) -> dict[str, int]:
    """Task -> all its purchases."""
    return {row[c.TASK]: row[_N] for row in counts.groupBy(c.TASK).agg(F.sum(_N).alias(_N)).collect()}


def collect_unknown(ids: Mapping[str, Sequence[int]], *sources: DataFrame) -> dict[str, list[int]]:
    """Task -> those of its given values that no source holds, in their order.

    Parameters
    ----------
    sources : frames with the columns ``sku``, ``category``, ``price``
    """
    unknown = {}
    for task, of_task in ids.items():
        value = F.col(tasks.PROPENSITY[task])
        frames = [source.filter(value.isin(list(of_task))).select(value) for source in sources]
        known = {row[0] for row in reduce(DataFrame.union, frames).distinct().collect()}
        unknown[task] = [label for label in of_task if label not in known]
    return unknown


def build_targets(purchases: DataFrame, labels: DataFrame, clients: DataFrame, n_parts: int = 1) -> DataFrame:
    """The targets table: one row per task, window and client, ``labels`` array<tinyint>.

    Clients meet their purchases in one join, and then become a row per task and window. Collects the labels' tasks.

    Parameters
    ----------
    purchases : one row per purchase of the target windows, with ``window``, ``sku``, ``category``, ``price``
    labels : the labels table; a task without a row in it gets no targets
    clients : the clients table; churn is asked of the active ones, every other task of all
    n_parts : of the frame; each holds all rows of its share of the clients
    """
    n_labels = Counter(row[c.TASK] for row in labels.select(c.TASK).collect())
    asked = []
    for task in tasks.TASKS:
        is_propensity = task in tasks.PROPENSITY
        if is_propensity and task not in n_labels:
            continue
        # most clients buy nothing: their labels are a constant of the task, which costs nothing a row. It is 1 for
        # conversion too: the challenge gives it churn's label, asked of all clients
        of_nothing = F.array_repeat(F.lit(0 if is_propensity else 1).cast("tinyint"), n_labels.get(task, 1))
        asked += [
            F.struct(F.lit(task).alias(c.TASK), F.lit(window).alias(c.WINDOW), of_nothing.alias("of_nothing"))
            for window in tasks.WINDOWS
        ]
    return (
        clients.join(_bought_by_client(purchases, labels, clients), on=c.POSITION, how="left")
        .repartition(n_parts, c.POSITION)  # before clients become many wide rows
        .withColumn("asked", F.explode(F.array(*asked)))
        .select("asked.*", c.POSITION, c.CLIENT_ID, c.IS_ACTIVE, "windows", "bought")
        .filter(F.col(c.IS_ACTIVE) | (F.col(c.TASK) != tasks.CHURN))
        .select(c.TASK, c.WINDOW, c.POSITION, c.CLIENT_ID, _labels_of_row().alias(c.LABELS))
    )


def _bought_by_client(purchases: DataFrame, labels: DataFrame, clients: DataFrame) -> DataFrame:
    """One row per client with a purchase: position, ``windows``, and the set ``bought`` of (task, window, label)."""
    label = F.struct(c.TASK, c.WINDOW, _LABEL)
    return (
        purchases.join(clients.select(c.CLIENT_ID, c.POSITION), on=c.CLIENT_ID, how="inner")
        .select(c.POSITION, c.WINDOW, _values(list(tasks.PROPENSITY)))
        .select(c.POSITION, c.WINDOW, "value.*")
        # at most tasks.MAX_LABELS rows a task; left, for a purchase of no label is one for churn and conversion
        .join(F.broadcast(labels.select(c.TASK, _ID, _LABEL)), on=[c.TASK, _ID], how="left")
        .groupBy(c.POSITION)
        .agg(
            # sets hold each label once a window, however often a client bought it
            F.collect_set(c.WINDOW).alias("windows"),
            F.collect_set(F.when(F.col(_LABEL).isNotNull(), label)).alias("bought"),
        )
    )


def _labels_of_row() -> Column:
    """The labels of a row's task and window, from all that its client bought; null for clients without a purchase."""
    is_propensity = F.col(c.TASK).isin(*tasks.PROPENSITY)
    has_purchase = F.coalesce(F.array_contains("windows", F.col(c.WINDOW)), F.lit(False))
    of_row = F.filter("bought", lambda one: (one[c.TASK] == F.col(c.TASK)) & (one[c.WINDOW] == F.col(c.WINDOW)))
    labels = F.transform(of_row, lambda one: one[_LABEL])
    multi_hot = F.transform("of_nothing", lambda _, label: F.array_contains(labels, label).cast("tinyint"))
    return (
        F.when(~has_purchase | (is_propensity & (F.size(labels) == 0)), F.col("of_nothing"))
        .when(is_propensity, multi_hot)
        .otherwise(F.array(F.lit(0).cast("tinyint")))
    )


def _values(of_tasks: Sequence[str]) -> Column:
    """One row per purchase and task: the value that the task's labels are compared with, as ``value``."""
    structs = [F.struct(F.lit(task).alias(c.TASK), F.col(tasks.PROPENSITY[task]).alias(_ID)) for task in of_tasks]
    return F.explode(F.array(*structs)).alias("value")
