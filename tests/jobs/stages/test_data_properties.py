"""Vocabulary and sequences of random shops against a plain reading, and against themselves laid out otherwise.

One example is a whole shop of many clients, for each costs a few Spark jobs. The typed events that these stages
read hold no null: ingest has put such rows into the quarantine (``test_event_rules.py``).
"""

import random
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, Row, SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.storage.delta_tables import session_settings
from jobs.transforms.sequences import build_sequences, collect_if_small
from jobs.transforms.vocabulary import count_items, number_items
from schemas.behaviours import ItemKind
from schemas.columns import CLIENT_ID, TIMESTAMP
from schemas.tables import VOCABULARIES
from schemas.tokens import FIRST_ITEM, UNK

CONFIG = load_config("demo", ["sequences.widths=[1,4,8,64]", "sequences.held_out_share=0.3"])
START = datetime(2022, 6, 1)

Event = tuple[int, datetime, int | str]

few_shops = settings(
    max_examples=6,
    database=None,
    derandomize=True,  # the same shops in every run; a failure prints its shop, shrunk
    print_blob=True,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)


@dataclass(frozen=True)
class Shop:
    """One behaviour's events and the settings they are read with."""

    behaviour: str
    events: list[Event]
    min_count: int
    max_length: int
    keep_rare_as_unk: bool
    n_partitions: int
    order: int
    """Seed of the order in which the rows lie."""

    @property
    def config(self) -> PipelineConfig:
        own = replace(
            CONFIG.behaviours[self.behaviour],
            min_count=self.min_count,
            keep_rare_as_unk=self.keep_rare_as_unk,
        )
        encoder = replace(CONFIG.encoders[self.behaviour], max_length=self.max_length)
        return replace(CONFIG, behaviours={self.behaviour: own}, encoders={self.behaviour: encoder})

    @property
    def item(self) -> str:
        return self.config.behaviours[self.behaviour].item

    def rows(self) -> list[Event]:
        return random.Random(self.order).sample(self.events, len(self.events))

    def frame(self, spark: SparkSession) -> DataFrame:
        rows = pd.DataFrame(self.rows(), columns=[CLIENT_ID, TIMESTAMP, self.item])
        typed = rows.astype({CLIENT_ID: "int64", TIMESTAMP: "datetime64[ns]"})
        return spark.createDataFrame(typed, ddl(self)).repartition(self.n_partitions)


def ddl(shop: Shop) -> str:
    return shop.config.events_table(shop.behaviour).ddl


ids = st.one_of(
    st.integers(-3, 12), st.integers(2**31 - 1, 2**31 + 2), st.sampled_from([-(2**63), -(2**40), 2**63 - 1])
)
codes = st.sampled_from([1, 2, 10, 100, 255])  # as text, "[1 ..." comes before "[10 ..." and that before "[2 ..."
queries = st.builds(lambda first, last: f"[{first} {'7 ' * 14}{last}]", codes, codes)
moments = st.one_of(st.integers(0, 3), st.integers(0, 10_000_000)).map(lambda second: START + timedelta(seconds=second))


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    behaviour, items = draw(st.sampled_from([("page_visit", ids), ("search_query", queries)]))
    own_items = draw(st.lists(items, min_size=1, max_size=12, unique=True))
    event = st.tuples(ids, moments, st.sampled_from(own_items))
    events = draw(st.lists(event, max_size=250))
    repeated = draw(st.lists(st.sampled_from(events), max_size=30)) if events else []
    return Shop(
        behaviour,
        events + repeated,
        min_count=draw(st.integers(1, 5)),
        max_length=draw(st.integers(1, 9)),
        keep_rare_as_unk=draw(st.booleans()),
        n_partitions=draw(st.integers(1, 7)),
        order=draw(st.integers(0, 99)),
    )


def plain_vocabulary(shop: Shop) -> list[tuple[str, str, int, int]]:
    counts = Counter(item for _, _, item in shop.events)
    frequent = [(item, count) for item, count in counts.items() if count >= shop.min_count]
    ranked = sorted(frequent, key=lambda pair: (-pair[1], pair[0]))
    return [(shop.behaviour, str(item), FIRST_ITEM + place, count) for place, (item, count) in enumerate(ranked)]


def plain_sequences(shop: Shop) -> dict[int, tuple[str, int, list[int], int]]:
    token_ids = {key: token_id for _, key, token_id, _ in plain_vocabulary(shop)}
    histories: dict[int, list[int]] = defaultdict(list)
    for client, _, item in sorted(shop.events, key=lambda event: (event[1], event[2])):
        if str(item) in token_ids or shop.keep_rare_as_unk:
            histories[client].append(token_ids.get(str(item), UNK))
    longest = shop.max_length
    sequences = {}
    for client, tokens in histories.items():
        last = tokens[-longest:]
        width = min(longest, min(width for width in CONFIG.sequences.widths if width >= len(last)))
        sequences[client] = (shop.behaviour, width, last, len(tokens))
    return sequences


@pytest.mark.slow
@few_shops
@given(shop=shops())
def test_token_ids_and_sequences_are_those_of_a_plain_reading(spark: SparkSession, shop: Shop) -> None:
    events = shop.frame(spark)
    with ExitStack() as cached:
        vocabulary = number_items(count_items(events, shop.item, shop.min_count), shop.behaviour, cached)
        words = [tuple(row) for row in vocabulary.collect()]
    expected = plain_vocabulary(shop)
    assert sorted(words, key=lambda row: row[2]) == expected

    stored = spark.createDataFrame(expected, VOCABULARIES.ddl)
    kind = ItemKind(shop.config.behaviours[shop.behaviour].kind)
    for form in (stored, collect_if_small(stored, len(expected), kind, shop.config.sequences)):
        with ExitStack() as cached:
            sequences = build_sequences(events, form, shop.behaviour, shop.config, cached).collect()
        rows = {
            row["client_id"]: (row["behaviour"], row["width"], row["token_ids"], row["n_events"]) for row in sequences
        }
        assert len(rows) == len(sequences)
        assert rows == plain_sequences(shop)


def many_clients(behaviour: str) -> Shop:
    generator = random.Random(behaviour)
    kinds: list[int | str] = [f"[{code} {'7 ' * 14}9]" for code in range(120)]
    kinds = [2**33 - code for code in range(120)] if behaviour == "page_visit" else kinds
    weights = [1 / (1 + place // 3) for place in range(120)]  # three items of each count, or nearly: ties
    items = generator.choices(kinds, weights, k=3000)
    events: list[Event] = [
        (generator.randrange(-50, 150), START + timedelta(seconds=generator.randrange(400)), item) for item in items
    ]
    return Shop(behaviour, events + events[:300], 2, 8, True, 1, 0)


def collect_tables(spark: SparkSession, events: DataFrame, shop: Shop) -> list[list[Row]]:
    """Both tables whole, their rows sorted."""
    with ExitStack() as cached:
        vocabulary = number_items(count_items(events, shop.item, shop.min_count), shop.behaviour, cached)
        sequences = build_sequences(events, vocabulary, shop.behaviour, shop.config, cached)
        return [sorted(frame.collect()) for frame in (vocabulary, sequences)]


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["page_visit", "search_query"])
def test_tables_do_not_depend_on_the_order_and_number_of_files_or_on_shuffle_partitions(
    spark: SparkSession, tmp_path: Path, behaviour: str
) -> None:
    shop = many_clients(behaviour)
    found = []
    for n_files, n_shuffle_partitions in ((1, 3), (3, 7), (7, 1)):
        folder = tmp_path / f"{n_files}"
        replace(shop, order=n_files, n_partitions=n_files).frame(spark).write.parquet(str(folder))
        changed = {
            "spark.sql.shuffle.partitions": str(n_shuffle_partitions),
            "spark.sql.files.openCostInBytes": str(2**30),  # one input partition for each file
        }
        with session_settings(spark, changed):
            events = spark.read.parquet(str(folder))
            assert events.rdd.getNumPartitions() == n_files
            found.append(collect_tables(spark, events, shop))
    (vocabulary, sequences), *others = found
    assert len(vocabulary) > 100
    assert len(sequences) == 200
    assert others == [[vocabulary, sequences]] * 2
