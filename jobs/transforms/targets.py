"""Labels of the six tasks, by joins: no step looks at one client at a time."""

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas import columns as c
from schemas import tasks

Label = tuple[int, float]
"""Id of a label and its popularity."""

_ID, _LABEL, _N, _POPULARITY = "id", "label", "n", "popularity"


def purchases_with_properties(purchases: DataFrame, products: DataFrame) -> DataFrame:
    """One row per purchase, with ``category`` and ``price`` added: null for skus without properties."""
    return purchases.join(products.select(c.SKU, c.CATEGORY, c.PRICE), on=c.SKU, how="left")


def purchases_of_new_skus(purchases: DataFrame, earlier: DataFrame) -> DataFrame:
    """The purchases whose sku nobody bought in ``earlier``; grain and columns unchanged."""
    return purchases.join(earlier.select(c.SKU).distinct(), on=c.SKU, how="left_anti")


def count_values(purchases: DataFrame, earlier: DataFrame) -> DataFrame:
    """One row per propensity task and value that was bought: ``task``, ``id``, ``n`` purchases; no nulls.

    Parameters
    ----------
    purchases : one row per purchase of the train target window, with ``sku``, ``category``, ``price``
    earlier : the purchases before it: a sku among them is not new
    """
    of_all = purchases.select(_values([task for task in tasks.PROPENSITY if task != tasks.NEW_SKU]))
    of_new = purchases_of_new_skus(purchases, earlier).select(_values([tasks.NEW_SKU]))
    values = of_all.unionByName(of_new).select("value.*").filter(F.col(_ID).isNotNull())
    return values.groupBy(c.TASK, _ID).agg(F.count("*").alias(_N))


def collect_top_labels(counts: DataFrame, n_labels: int = tasks.MAX_LABELS) -> dict[str, list[Label]]:
    """Task -> its most bought values, ties by rising id, with their popularity; tasks without a purchase are absent.

    Parameters
    ----------
    counts : as ``count_values`` gives them
    """
    place = F.row_number().over(Window.partitionBy(c.TASK).orderBy(F.col(_N).desc(), F.col(_ID)))
    top = _with_popularity(counts).withColumn("place", place).filter(F.col("place") <= n_labels)
    rows = sorted(top.collect(), key=lambda row: (row[c.TASK], row["place"]))
    return {
        task: [(row[_ID], row[_POPULARITY]) for row in rows if row[c.TASK] == task]
        for task in dict.fromkeys(row[c.TASK] for row in rows)
    }


def collect_popularity(counts: DataFrame, ids: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    """Popularity of each task's given values, in their order; 0 for those that nobody bought.

    Parameters
    ----------
    counts : as ``count_values`` gives them
    """
    wanted = F.lit(False)
    for task, of_task in ids.items():
        wanted = wanted | ((F.col(c.TASK) == task) & F.col(_ID).isin(list(of_task)))
    found = {(row[c.TASK], row[_ID]): row[_POPULARITY] for row in _with_popularity(counts).filter(wanted).collect()}
    return {task: [found.get((task, label), 0.0) for label in of_task] for task, of_task in ids.items()}


def _with_popularity(counts: DataFrame) -> DataFrame:
    """Adds each value's share of its task's purchases."""
    totals = counts.groupBy(c.TASK).agg(F.sum(_N).alias("total"))
    popularity = (F.col(_N) / F.col("total")).alias(_POPULARITY)
    return counts.join(F.broadcast(totals), on=c.TASK, how="inner").select(c.TASK, _ID, _N, popularity)


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


def build_targets(purchases: DataFrame, labels: DataFrame, clients: DataFrame) -> DataFrame:
    """The targets table: one row per task, window and client, ``labels`` array<tinyint>.

    Clients meet purchases in one join, and then become a row per task and window. Collects the number of labels of
    each task.

    Parameters
    ----------
    purchases : one row per purchase of the target windows, with ``window``, ``sku``, ``category``, ``price``
    labels : the labels table; a task without a row in it gets no targets
    clients : the clients table; churn is asked of the active ones, every other task of all
    """
    n_labels = {row[c.TASK]: row[_N] for row in labels.groupBy(c.TASK).agg(F.count("*").alias(_N)).collect()}
    asked = [
        F.struct(
            F.lit(task).alias(c.TASK), F.lit(window).alias(c.WINDOW), F.lit(n_labels.get(task, 1)).alias("n_labels")
        )
        for task in tasks.TASKS
        for window in tasks.WINDOWS
        if task in n_labels or task not in tasks.PROPENSITY
    ]
    return (
        clients.join(_collect_bought(purchases, labels), on=c.CLIENT_ID, how="left")
        .withColumn("asked", F.explode(F.array(*asked)))
        .select("asked.*", c.POSITION, c.CLIENT_ID, c.IS_ACTIVE, "windows", "bought")
        .filter(F.col(c.IS_ACTIVE) | (F.col(c.TASK) != tasks.CHURN))
        .select(c.TASK, c.WINDOW, c.POSITION, c.CLIENT_ID, _labels_of_row().alias(c.LABELS))
    )


def _collect_bought(purchases: DataFrame, labels: DataFrame) -> DataFrame:
    """One row per client with a purchase: the ``windows`` of them, and ``bought``, a set of (task, window, label)."""
    label = F.struct(c.TASK, c.WINDOW, _LABEL)
    return (
        purchases.select(c.CLIENT_ID, c.WINDOW, _values(list(tasks.PROPENSITY)))
        .select(c.CLIENT_ID, c.WINDOW, "value.*")
        .join(F.broadcast(labels.select(c.TASK, _ID, _LABEL)), on=[c.TASK, _ID], how="left")
        .groupBy(c.CLIENT_ID)
        .agg(
            F.collect_set(c.WINDOW).alias("windows"),
            F.collect_set(F.when(F.col(_LABEL).isNotNull(), label)).alias("bought"),
        )
    )


def _labels_of_row() -> Column:
    """The labels of a row's task and window, from all that its client bought; null for clients without a purchase."""
    has_purchase = F.coalesce(F.array_contains("windows", F.col(c.WINDOW)), F.lit(False))
    places = F.transform(F.filter("bought", _is_of_row), lambda one: one[_LABEL])
    propensity = _multi_hot(places, F.col("n_labels"))
    return F.when(F.col(c.TASK).isin(*tasks.PROPENSITY), propensity).otherwise(F.array((~has_purchase).cast("tinyint")))


def _is_of_row(one: Column) -> Column:
    return (one[c.TASK] == F.col(c.TASK)) & (one[c.WINDOW] == F.col(c.WINDOW))


def _values(of_tasks: Sequence[str]) -> Column:
    """One row per purchase and task: the value that the task's labels are compared with, as ``value``."""
    structs = [F.struct(F.lit(task).alias(c.TASK), F.col(tasks.PROPENSITY[task]).alias(_ID)) for task in of_tasks]
    return F.explode(F.array(*structs)).alias("value")


def _multi_hot(places: Column, size: Column) -> Column:
    zeros = F.array_repeat(F.lit(0).cast("tinyint"), size)
    ones = F.transform(F.sequence(F.lit(0), size - 1), lambda place: F.array_contains(places, place).cast("tinyint"))
    has_none = F.coalesce(F.size(places) <= 0, F.lit(True))
    return F.when(has_none, zeros).otherwise(ones)
