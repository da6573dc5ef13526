"""What is known of merged streams' items, as a table and as arrays."""

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.transforms.item_attributes import (
    ATTRIBUTE_COLUMNS,
    build_item_attributes,
    collect_unknown,
    read_item_attributes,
)
from schemas.tables import ITEM_ATTRIBUTES, PRODUCT_PROPERTIES, VOCABULARIES

NAME, QUERY = f"[7 {'0 ' * 14}255]", f"[1 {'2 ' * 14}3]"


def codes(first: int, between: int, last: int) -> list[int]:
    return [first, *[between] * 14, last]


def test_a_sku_has_what_its_product_has_and_a_query_its_own_codes(spark: SparkSession) -> None:
    words = [("mixed", "sku 5", 3, 9), ("mixed", "url 5", 4, 8), ("mixed", f"query {QUERY}", 5, 7)]
    words += [("mixed", "sku 6", 6, 6), ("mixed", "sku 7", 7, 5)]
    products = [(5, 40, 99, NAME), (6, None, 0, None), (8, 1, 1, NAME)]
    built = build_item_attributes(
        spark.createDataFrame(words, VOCABULARIES.ddl),
        spark.createDataFrame(products, PRODUCT_PROPERTIES.ddl),
        {"query"},
    )
    assert built.schema.simpleString() == spark.createDataFrame([], ITEM_ATTRIBUTES.ddl).schema.simpleString()
    assert sorted(map(tuple, built.collect()), key=lambda row: row[1]) == [
        ("mixed", 3, "sku", 40, 99, codes(7, 0, 255), 9),
        ("mixed", 4, "url", None, None, None, 8),
        ("mixed", 5, "query", None, None, codes(1, 2, 3), 7),
        ("mixed", 6, "sku", None, 0, None, 6),
        ("mixed", 7, "sku", None, None, None, 5),
    ]
    assert collect_unknown(built) == [
        ("mixed", "query", 1, {"category": 1, "price": 1, "codes": 0}),
        ("mixed", "sku", 3, {"category": 2, "price": 1, "codes": 2}),
        ("mixed", "url", 1, {"category": 1, "price": 1, "codes": 1}),
    ]


def test_arrays_have_0_for_what_is_unknown_and_categories_by_falling_events() -> None:
    columns = [
        pa.array([3, 6, 4, 5], pa.int32()),
        pa.array(["sku", "sku", "url", "sku"]),
        pa.array([900, 7, None, 7]),
        pa.array([0, None, None, 99], pa.int32()),
        pa.array([codes(0, 1, 255), None, None, codes(2, 2, 2)], pa.list_(pa.int16())),
        pa.array([8, 5, 6, 4]),
    ]
    batch = pa.RecordBatch.from_arrays(columns, list(ATTRIBUTE_COLUMNS))
    found = read_item_attributes([batch.slice(0, 1), batch.slice(1)], ("sku", "url"), 7)
    assert found.item_kind.tolist() == [0, 0, 0, 1, 2, 1, 1]
    assert found.category.tolist() == [0, 0, 0, 2, 0, 1, 1]
    assert found.price.tolist() == [0, 0, 0, 1, 0, 100, 0]
    assert found.n_events.tolist() == [0, 0, 0, 8, 6, 4, 5]
    np.testing.assert_array_equal(found.codes[3], codes(1, 2, 256))
    assert found.codes[[0, 4, 6]].max() == 0
    nothing = read_item_attributes([batch.slice(2, 1)], ("sku", "url"), 7)
    assert (nothing.category.max(), nothing.codes.max()) == (0, 0)
