"""Vocabulary: items of the input events -> token ids, per behaviour and per stream of merged behaviours."""

import logging
from contextlib import ExitStack
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.runtime.caching import cache_rows
from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.delta_tables import exists, read_ingested, read_table, write_table
from jobs.storage.stored_rows import StoredRows, stored_rows
from jobs.storage.workspace import Workspace
from jobs.transforms.item_attributes import build_item_attributes, collect_unknown
from jobs.transforms.vocabulary import collect_summaries, count_items, merge_counts, number_items
from jobs.transforms.windows import read_windows
from schemas.behaviours import ItemKind
from schemas.columns import BEHAVIOUR, N_EVENTS
from schemas.errors import InputError
from schemas.tables import ITEM_ATTRIBUTES, PRODUCT_PROPERTIES, VOCABULARIES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per behaviour and item, one per merged stream and item, and what is known of the latter."""
    windows = read_windows(spark, workspace)
    merged = config.merged_streams()
    # an item that is rare in one of these may be kept by another one, with all of its events
    counted_whole = {
        name
        for stream in merged.values()
        for name in stream.behaviours
        if config.behaviours[name].min_count > 1 and stream.shares_item(name, config.behaviours)
    }
    with ExitStack() as cached:

        def count(name: str) -> tuple[DataFrame, int | None]:
            """The items of one behaviour with ``n_events``, and how many they are at most, where that is known."""
            events = stored_rows(read_ingested(spark, workspace, config.events_table(name)), windows.input_end)
            behaviour = config.behaviours[name]
            counts = count_items(events, behaviour.item, 1 if name in counted_whole else behaviour.min_count)
            # read once more, for the counts of the merged streams
            is_shared = any(name in stream.behaviours for stream in merged.values())
            max_rows = events.max_rows if isinstance(events, StoredRows) else None
            return cache_rows(counts, cached) if is_shared else counts, max_rows

        counted = dict(zip(config.behaviours, map_side_by_side(count, config.behaviours), strict=True))

        def build(name: str) -> DataFrame:
            counts, max_rows = counted[name]
            is_frequent = F.col(N_EVENTS) >= config.behaviours[name].min_count
            return number_items(counts.filter(is_frequent) if name in counted_whole else counts, name, cached, max_rows)

        def merge(name: str) -> DataFrame:
            own = {behaviour: counted[behaviour] for behaviour in merged[name].behaviours}
            max_rows = [most for _, most in own.values()]
            counts = merge_counts({behaviour: items for behaviour, (items, _) in own.items()}, config.behaviours)
            return number_items(counts, name, cached, None if None in max_rows else sum(filter(None, max_rows)))

        # merged counts are made of those that are cached by then
        vocabularies = [*map_side_by_side(build, config.behaviours), *map_side_by_side(merge, merged)]
        # all in one commit: a reader finds vocabularies of one run
        write_table(reduce(DataFrame.unionByName, vocabularies), workspace, VOCABULARIES)
    found = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    for name in (*config.behaviours, *merged):
        if name not in found:
            log.info("  %s: no item with enough events before %s, left out", name, windows.input_end)
    if not found:
        raise InputError(
            f"no behaviour has an item with enough events before {windows.input_end}; the data is too short"
        )
    # without merged streams too, where an earlier run had some: its rows would be of other vocabularies
    if merged or exists(spark, workspace.table(ITEM_ATTRIBUTES.name)):
        write_item_attributes(spark, config, workspace)


def write_item_attributes(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Replace ``tables/item_attributes``, and log what is not known."""
    vocabularies = read_table(spark, workspace, VOCABULARIES).filter(F.col(BEHAVIOUR).isin([*config.merged_streams()]))
    products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    codes = {behaviour.item for behaviour in config.behaviours.values() if behaviour.kind == ItemKind.CODES}
    write_table(build_item_attributes(vocabularies, products, codes), workspace, ITEM_ATTRIBUTES)
    for stream, item, n_tokens, unknown in collect_unknown(read_table(spark, workspace, ITEM_ATTRIBUTES)):
        absent = ", ".join(f"{name} of {n:,}" for name, n in unknown.items() if n)
        log.info("  %s: %s items of %s%s", stream, f"{n_tokens:,}", item, f", not known: {absent}" if absent else "")


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("vocabulary")
