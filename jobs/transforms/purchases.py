"""Purchases with what is known of their products."""

from pyspark.sql import DataFrame

from schemas import columns as c


def purchases_with_properties(purchases: DataFrame, products: DataFrame) -> DataFrame:
    """One row per purchase, with ``category`` and ``price`` added: null for skus without properties."""
    return purchases.join(products.select(c.SKU, c.CATEGORY, c.PRICE), on=c.SKU, how="left")
