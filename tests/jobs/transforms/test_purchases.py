from eval_tables import purchases

from jobs.transforms.purchases import purchases_with_properties
from schemas.tables import PRODUCT_PROPERTIES


def test_purchases_of_skus_without_properties_have_nulls(spark):
    products = spark.createDataFrame([(1, 10, 50, "[0]")], PRODUCT_PROPERTIES.ddl)
    found = purchases_with_properties(purchases(spark, [(7, "2022-06-01", 1), (7, "2022-06-01", 2)]), products)
    assert {(row["sku"], row["category"], row["price"]) for row in found.collect()} == {(1, 10, 50), (2, None, None)}
