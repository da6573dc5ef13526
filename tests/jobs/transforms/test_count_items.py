"""Counting: a counter for each id, a sort of far-flung ids and text groups give the same counts in as few bits."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.transforms.vocabulary import add_counts, keep_frequent

NEAR, FAR = st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)


def counted(rows: pa.Table) -> dict[object, int]:
    counts = add_counts(rows).to_pylist()
    assert len({row["item"] for row in counts}) == len(counts)
    return {row["item"]: row["n_events"] for row in counts}


@given(st.lists(NEAR, min_size=1) | st.lists(NEAR | FAR, min_size=1))
def test_rows_are_events_until_they_have_counts(items: list[int]) -> None:
    once = add_counts(pa.table({"item": pa.array(items, pa.int64())}))
    assert counted(once) == Counter(items)
    twice = pa.concat_tables([once, once])
    assert counted(twice) == {item: 2 * n for item, n in Counter(items).items()}


@given(st.lists(st.text(max_size=2), min_size=1))
def test_text_is_counted_too(items: list[str]) -> None:
    assert counted(pa.table({"item": items})) == Counter(items)


@pytest.mark.parametrize(("item", "bits"), [(2**31 - 1, 32), (2**31, 64), (-(2**31), 32), (-(2**31) - 1, 64)])
def test_ids_and_counts_travel_in_32_bits_where_these_hold_them(item: int, bits: int) -> None:
    rows = pa.table({"item": pa.array([item] * 5, pa.int64())})
    counts = add_counts(rows)
    assert [column.type.bit_width for column in counts.columns] == [bits, 32]
    assert keep_frequent(5)(counts).schema == pa.schema([("item", pa.int64()), ("n_events", pa.int64())])


def test_counts_beyond_32_bits_are_added_up_whole() -> None:
    rows = pa.table({"item": pa.array([1, 1], pa.int32()), "n_events": pa.array([2**31 - 1] * 2, pa.int32())})
    assert counted(rows) == {1: 2**32 - 2}
    assert keep_frequent(2**32)(rows).num_rows == 0
