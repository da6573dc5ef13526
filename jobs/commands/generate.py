"""Writes data in the challenge's file format (``ubp generate``): a simulated shop or a benchmark log."""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from functools import reduce
from pathlib import Path

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.inputs import WindowSettings
from conf.synthetic import BenchmarkLogSettings, ShopSettings
from jobs.evaluation.labels import collect_top_labels, count_values
from jobs.inputs.challenge_directory import ACTIVE_CLIENTS, RELEVANT_CLIENTS, TARGET, count_rows, source_path
from jobs.profiles.export import to_float16
from jobs.runtime.progress import spark_progress
from jobs.storage.entry_files import EntryWriter, rectangle, stream_batches
from jobs.storage.locations import spark_url
from jobs.synthetic.benchmark_log.files import behaviour_rows, product_rows
from jobs.synthetic.benchmark_log.statistics import collect_statistics, format_statistics
from jobs.synthetic.blocks import ITEM_COLUMNS
from jobs.synthetic.shop.files import latent_states, product_properties, select_behaviour, simulate_events
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import collect_last_timestamp, derive_windows, events_before, target_events
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY
from schemas.blocks import ORACLE
from schemas.errors import ConfigError, OutputError
from schemas.tables import PRODUCT_PROPERTIES
from schemas.tasks import PROPENSITY, TRAIN

log = logging.getLogger(__name__)


def generate_shop(spark: SparkSession, directory: Path, settings: ShopSettings) -> None:
    """Write the shop and its entry ``oracle`` into ``directory``; the files lie beside it until all are complete.

    Raises
    ------
    OutputError
        If the directory holds something already, or cannot be written.
    ConfigError
        If the settings make a shop without a purchase, which has no windows.
    """
    with _unfinished(directory, f"simulated shop of {settings.n_clients:,} clients") as folder:
        events = simulate_events(spark, settings).persist(StorageLevel.DISK_ONLY)  # simulated once for all behaviours
        try:
            _write(product_properties(spark, settings), folder, PRODUCT_PROPERTIES.name)
            for behaviour in ITEM_COLUMNS:
                _write(select_behaviour(events, behaviour), folder, behaviour)
        finally:
            events.unpersist()
        cutoff = _write_targets(spark, folder, settings.seed, settings.relevant_share)
        _write_oracle(spark, folder, settings, cutoff)


def generate_benchmark_log(spark: SparkSession, directory: Path, settings: BenchmarkLogSettings) -> None:
    """Write the log into ``directory``, as ``generate_shop`` does, and how near it comes to the published figures."""
    with _unfinished(directory, f"benchmark log of {settings.n_events:,} events") as folder:
        _write(product_rows(spark, settings), folder, PRODUCT_PROPERTIES.name)
        for behaviour in ITEM_COLUMNS:
            _write(behaviour_rows(spark, behaviour, settings), folder, behaviour)
        _write_targets(spark, folder, settings.seed, settings.relevant_share)
        _write_statistics(spark, folder)


@contextlib.contextmanager
def _unfinished(directory: Path, content: str) -> Iterator[Path]:
    """A folder that becomes ``directory`` when the block is done, with a line in the log, and goes if that fails."""
    started = time.monotonic()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise OutputError(
            f"--out {directory}: expected a new or empty folder, found something there; remove it or choose another"
        )
    finished = directory.resolve()
    unfinished = finished.with_name(f".{finished.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        # replaces an empty folder; one that was filled meanwhile is an OSError
        unfinished.rename(finished)
    except OSError as error:
        raise OutputError(f"--out {directory}: cannot write here ({error}); choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info("%s in %s, %.1f s", content, directory, time.monotonic() - started)


def _write(rows: DataFrame, directory: Path, name: str) -> None:
    started = time.monotonic()
    path = source_path(directory, name)
    with spark_progress(rows.sparkSession.sparkContext, f"generate: {name}"):
        rows.write.parquet(spark_url(path))
    # from the files' footers: counting the frame's rows would make all of them once more
    log.info("  %s: %s rows, %.1f s", name, f"{count_rows(path):,}", time.monotonic() - started)


def _read_sources(spark: SparkSession, directory: Path) -> dict[str, DataFrame]:
    """Name -> rows of the written files."""
    names = (*ITEM_COLUMNS, PRODUCT_PROPERTIES.name)
    return {name: spark.read.parquet(spark_url(source_path(directory, name))) for name in names}


def _union_clients(sources: dict[str, DataFrame]) -> DataFrame:
    """One row per event of any behaviour: ``client_id``."""
    return reduce(DataFrame.union, (sources[behaviour].select(c.CLIENT_ID) for behaviour in ITEM_COLUMNS))


def _write_statistics(spark: SparkSession, directory: Path) -> None:
    started = time.monotonic()
    sources = _read_sources(spark, directory)
    n_relevant = len(np.load(directory / RELEVANT_CLIENTS, allow_pickle=False))
    with spark_progress(spark.sparkContext, "generate: statistics"):
        statistics = collect_statistics(sources, _union_clients(sources), n_relevant)
    log.info("  statistics: %.1f s", time.monotonic() - started)
    for line in format_statistics(statistics):
        log.info("  %s", line)
    figures = [{**asdict(statistic), "ratio": statistic.ratio} for statistic in statistics]
    (directory / "statistics.json").write_text(json.dumps(figures, indent=1))


def _write_oracle(spark: SparkSession, directory: Path, settings: ShopSettings, cutoff: datetime) -> None:
    """Write the relevant clients' latent states at the cutoff as an entry."""
    started = time.monotonic()
    cutoff_day = (cutoff.date() - settings.first_day).days
    if cutoff_day < 1:
        log.info("  oracle: left out: the last purchase leaves no day before the target windows")
        return
    relevant = np.load(directory / RELEVANT_CLIENTS, allow_pickle=False)
    rows = directory / ".oracle"
    with spark_progress(spark.sparkContext, "generate: oracle"):
        latent_states(spark, settings, cutoff_day).write.parquet(spark_url(rows))
    files = [str(path) for path in sorted(rows.glob("*.parquet"))]
    width = len(next(stream_batches(files, [c.VECTOR])).column(0)[0])
    with EntryWriter(directory / ORACLE, len(relevant), width) as writer:
        for batch in stream_batches(files, [c.CLIENT_ID, c.VECTOR]):
            client_ids = batch.column(c.CLIENT_ID).to_numpy()
            is_relevant = np.isin(client_ids, relevant)
            own = client_ids[is_relevant]
            states = rectangle(batch.column(c.VECTOR), np.dtype(np.float32))[is_relevant]
            # the relevant clients were saved by rising id
            writer.write(np.searchsorted(relevant, own), own, to_float16(states))
    shutil.rmtree(rows)
    log.info("  oracle: %d columns, %.1f s", width, time.monotonic() - started)


def _write_targets(spark: SparkSession, directory: Path, seed: int, relevant_share: float) -> datetime:
    """Write the relevant clients, the active ones among them, and the labels with their popularity; the cutoff."""
    started = time.monotonic()
    with spark_progress(spark.sparkContext, "generate: clients and labels"):
        sources = _read_sources(spark, directory)
        # the files have times as text, as the challenge's do
        buys = sources[PRODUCT_BUY].withColumn(c.TIMESTAMP, F.to_timestamp_ntz(c.TIMESTAMP))
        last_purchase = collect_last_timestamp(buys)
        if last_purchase is None:
            raise ConfigError("the simulated shop sold nothing: raise its n_clients or sessions_per_day")
        windows = derive_windows(last_purchase, WindowSettings())
        input_buys = events_before(buys, windows.train_start)
        # by a hash of the id, so that the choice depends on no other client and on no order of rows
        hash_share = F.pmod(F.xxhash64(c.CLIENT_ID, F.lit(seed)), F.lit(10_000)) / 10_000
        for events, name in ((_union_clients(sources), RELEVANT_CLIENTS), (input_buys, ACTIVE_CLIENTS)):
            clients = events.where(hash_share < relevant_share).select(c.CLIENT_ID).distinct().toPandas()
            _save(np.sort(np.asarray(clients, dtype=np.int64).ravel()), directory / name)

        bought = target_events(purchases_with_properties(buys, sources[PRODUCT_PROPERTIES.name]), windows)
        top = collect_top_labels(count_values(bought.where(F.col(c.WINDOW) == TRAIN), input_buys))
        for task in PROPENSITY:
            labels = top.get(task, [])
            ids = np.array([label for label, _ in labels], dtype=np.int64)
            popularity = np.array([share for _, share in labels], dtype=np.float64)
            _save(ids, directory / TARGET / f"{task}.npy")
            _save(popularity, directory / TARGET / f"popularity_{task}.npy")
    log.info("  clients and labels: %.1f s", time.monotonic() - started)
    return windows.train_start


def _save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
