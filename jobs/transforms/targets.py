"""Labels of the six tasks, by joins: no step looks at one client at a time."""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas import columns as c
from schemas import tasks

Label = tuple[int, float]
"""Id of a label and its popularity."""


def purchases_with_properties(purchases: DataFrame, products: DataFrame) -> DataFrame:
    """One row per purchase, with ``category`` and ``price`` added: null for skus without properties."""
    return purchases.join(products.select(c.SKU, c.CATEGORY, c.PRICE), on=c.SKU, how="left")


def purchases_of_new_skus(purchases: DataFrame, earlier: DataFrame) -> DataFrame:
    """The purchases whose sku nobody bought in ``earlier``; grain and columns unchanged."""
    return purchases.join(earlier.select(c.SKU).distinct(), on=c.SKU, how="left_anti")


def with_popularity(purchases: DataFrame, column: str) -> DataFrame:
    """One row per value of ``column``: ``id``, ``n`` purchases, ``popularity``.

    Popularity is the value's share of the purchases that have one: purchases with a null count nowhere.
    """
    counts = purchases.filter(F.col(column).isNotNull()).groupBy(F.col(column).alias("id")).agg(F.count("*").alias("n"))
    total = counts.agg(F.sum("n").alias("total"))
    return counts.crossJoin(F.broadcast(total)).select("id", "n", (F.col("n") / F.col("total")).alias("popularity"))


def collect_top_labels(purchases: DataFrame, column: str, n_labels: int = tasks.MAX_LABELS) -> list[Label]:
    """The most bought values of ``column``, ties by rising id, with their popularity."""
    top = with_popularity(purchases, column).orderBy(F.col("n").desc(), F.col("id")).limit(n_labels)
    return [(row["id"], row["popularity"]) for row in top.collect()]


def collect_popularity(purchases: DataFrame, column: str, ids: list[int]) -> list[float]:
    """Popularity of each given value, in their order; 0 for those that nobody bought."""
    wanted = with_popularity(purchases, column).filter(F.col("id").isin(ids))
    found = {row["id"]: row["popularity"] for row in wanted.collect()}
    return [found.get(label, 0.0) for label in ids]


def build_targets(purchases: DataFrame, labels: DataFrame, clients: DataFrame) -> DataFrame:
    """The targets table: one row per task, window and client, ``labels`` array<tinyint>.

    Parameters
    ----------
    purchases : one row per purchase of the target windows, with ``window``, ``sku``, ``category``, ``price``
    labels : the labels table; a task without a row in it gets no targets
    clients : the clients table; churn is asked of the active ones, every other task of all
    """
    conversion = _no_purchase_labels(purchases, clients)
    churn = conversion.filter(F.col(c.IS_ACTIVE)).withColumn(c.TASK, F.lit(tasks.CHURN))
    frames = [churn, conversion, _propensity_labels(purchases, labels, clients)]
    select = [c.TASK, c.WINDOW, c.POSITION, c.CLIENT_ID, c.LABELS]
    return reduce(DataFrame.unionByName, (frame.select(*select) for frame in frames))


def _no_purchase_labels(purchases: DataFrame, clients: DataFrame) -> DataFrame:
    buyers = purchases.select(c.WINDOW, c.CLIENT_ID).distinct().withColumn("has_purchase", F.lit(True))
    has_no_purchase = F.col("has_purchase").isNull().cast("tinyint")
    return (
        clients.withColumn(c.TASK, F.lit(tasks.CONVERSION))
        .withColumn(c.WINDOW, _each(tasks.WINDOWS))
        .join(buyers, on=[c.WINDOW, c.CLIENT_ID], how="left")
        .withColumn(c.LABELS, F.array(has_no_purchase))
    )


def _propensity_labels(purchases: DataFrame, labels: DataFrame, clients: DataFrame) -> DataFrame:
    values = [F.struct(F.lit(task).alias(c.TASK), F.col(column).alias("id")) for task, column in _PROPENSITY]
    bought = (
        purchases.select(c.WINDOW, c.CLIENT_ID, F.explode(F.array(*values)).alias("value"))
        .select(c.WINDOW, c.CLIENT_ID, "value.*")
        .join(F.broadcast(labels.select(c.TASK, "id", "label")), on=[c.TASK, "id"], how="inner")
        .groupBy(c.TASK, c.WINDOW, c.CLIENT_ID)
        .agg(F.collect_set("label").alias("bought"))
    )
    sizes = labels.groupBy(c.TASK).agg(F.count("*").cast("int").alias("n_labels"))
    return (
        clients.crossJoin(F.broadcast(sizes.withColumn(c.WINDOW, _each(tasks.WINDOWS))))
        .join(bought, on=[c.TASK, c.WINDOW, c.CLIENT_ID], how="left")
        .withColumn(c.LABELS, _multi_hot(F.col("bought"), F.col("n_labels")))
    )


_PROPENSITY = tuple(tasks.PROPENSITY.items())


def _each(values: tuple[str, ...]) -> Column:
    return F.explode(F.array(*map(F.lit, values)))


def _multi_hot(places: Column, size: Column) -> Column:
    zeros = F.array_repeat(F.lit(0).cast("tinyint"), size)
    ones = F.transform(F.sequence(F.lit(0), size - 1), lambda place: F.array_contains(places, place).cast("tinyint"))
    return F.when(places.isNull(), zeros).otherwise(ones)
