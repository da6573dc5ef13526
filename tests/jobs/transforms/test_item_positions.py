"""Items find their positions in the vocabulary, near or far from each other, known or not."""

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.transforms.item_positions import ItemPositions, collect_item_positions
from schemas.tables import VOCABULARIES
from schemas.tokens import UNK

NEAR = [-3, 4, 5, 9]
FAR = [-(2**63), -7, 2**40, 2**63 - 1]


def item_positions(keys: list[int]) -> ItemPositions:
    return ItemPositions(np.array(keys, np.int64), np.arange(10, 10 + len(keys), dtype=np.int32))


@pytest.mark.parametrize("keys", [NEAR, FAR, [7], []], ids=["near", "far", "one", "none"])
def test_a_known_item_has_its_token_and_another_is_unknown(keys: list[int]) -> None:
    positions = item_positions(keys)
    others = [other for other in (-(2**63) + 1, -4, -1, 0, 6, 8, 10, 2**62) if other not in keys]
    found = positions.find(np.array([*keys, *others], np.int64))
    assert found.dtype == np.int32
    assert (found & 1).tolist() == [1] * len(keys) + [0] * len(others)
    assert positions.token_ids_at(found).tolist() == [*range(10, 10 + len(keys)), *[UNK] * len(others)]


@pytest.mark.parametrize("keys", [NEAR, FAR], ids=["near", "far"])
def test_places_are_in_the_order_of_the_items_the_unknown_ones_between(keys: list[int]) -> None:
    items = np.unique(np.array([*keys, -5, -4, -2, 3, 6, 8, 2**39, 2**41], np.int64))
    found = item_positions(keys).find(items)
    assert (np.diff(found) >= 0).all()
    known = np.isin(items, keys)
    assert (np.diff(found)[known[1:] | known[:-1]] > 0).all()


def test_the_vocabulary_is_collected_in_the_order_of_its_items(spark: SparkSession) -> None:
    rows = [("page_visit", key, token_id, 1) for key, token_id in (("100", 3), ("-7", 4), ("9", 5))]
    positions = collect_item_positions(spark.createDataFrame(rows, VOCABULARIES.ddl))
    assert positions.keys.tolist() == [-7, 9, 100]
    assert positions.token_ids.tolist() == [4, 5, 3]
