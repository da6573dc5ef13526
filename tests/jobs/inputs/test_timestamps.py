"""Texts as times, in Arrow: by the same rule as in Spark (``test_event_rules.py``)."""

import itertools
from datetime import datetime

import pyarrow as pa
import pytest
from changed_times import NO_TIMES, NOON, changed_times, time_of

from jobs.inputs.timestamps import TIME_TYPE, parse_times


@pytest.mark.parametrize("text", NO_TIMES)
def test_only_the_exact_form_is_a_time_alone_or_among_others(text: str) -> None:
    for texts in ([text], [NOON, text], [text, NOON, None]):
        assert parse_times(pa.array(texts)).to_pylist() == [time_of(each) if each else None for each in texts]


def test_every_day_of_a_leap_cycle_is_a_time_among_texts_that_are_none() -> None:
    days = itertools.product((1900, 1970, 2000, 2022, 2023, 2024, 2100), range(14), range(33))
    texts = [f"{year}-{month:02}-{day:02} 23:59:59" for year, month, day in days]
    assert parse_times(pa.array(texts)).to_pylist() == [time_of(text) for text in texts]


@pytest.mark.slow
def test_any_two_characters_changed_give_the_same_time_or_none() -> None:
    texts = changed_times()
    expected = [time_of(text) for text in texts]
    assert parse_times(pa.array(texts)).to_pylist() == expected
    assert [parse_times(pa.array([text]))[0].as_py() for text in texts] == expected


@pytest.mark.parametrize("texts", [
    pa.array([NOON, NOON], "large_string"),
    pa.array([NOON, NOON]).dictionary_encode(),
    pa.array(["noon", NOON, NOON, "noon"])[1:3],
    pa.array([None, NOON, NOON])[1:],
])  # fmt: skip
def test_text_is_read_however_it_is_held(texts: pa.Array) -> None:
    times = parse_times(texts)
    assert times.type == TIME_TYPE
    assert times.to_pylist() == [datetime(2022, 6, 1, 12)] * 2


def test_no_texts_are_no_times() -> None:
    assert parse_times(pa.array([], pa.string())).to_pylist() == []
    assert parse_times(pa.nulls(2, pa.string())).to_pylist() == [None, None]
