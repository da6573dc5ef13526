"""Writes a made shop in the challenge's file format (``ubp generate``)."""

import logging
import shutil
import time
from pathlib import Path

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.settings import WindowSettings
from conf.shop import ShopSettings
from jobs.progress import spark_progress
from jobs.shop.files import ITEM_COLUMNS, product_properties, select_behaviour, simulate_events
from jobs.transforms.targets import collect_top_labels, purchases_of_new_skus, purchases_with_properties
from jobs.transforms.windows import collect_last_timestamp, derive_windows, events_before_targets, target_events
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import ConfigError, OutputError
from schemas.tasks import NEW_SKU, PROPENSITY, TRAIN

log = logging.getLogger(__name__)

_HASH_STEPS = 10_000


def generate_shop(spark: SparkSession, directory: Path, settings: ShopSettings) -> None:
    """Write the shop into ``directory``; the files lie beside it until all are complete.

    Raises
    ------
    OutputError
        If the directory holds something already, or cannot be written.
    ConfigError
        If the settings make a shop without a purchase, which has no windows.
    """
    _require_free(directory)
    finished = directory.resolve()
    unfinished = finished.with_name(f".{finished.name}.unfinished")
    started = time.monotonic()
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with spark_progress(spark.sparkContext, "generate"):
            _write_shop(spark, unfinished, settings)
        unfinished.rename(finished)
    except OSError as error:
        raise OutputError(f"--out {directory}: cannot write here ({error}); choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info("made shop of %s clients in %s, %.1f s", f"{settings.n_clients:,}", directory, time.monotonic() - started)


def _require_free(directory: Path) -> None:
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise OutputError(
            f"--out {directory}: expected a new or empty folder, found something there; remove it or choose another"
        )


def _write_shop(spark: SparkSession, directory: Path, settings: ShopSettings) -> None:
    events = simulate_events(spark, settings).persist(StorageLevel.DISK_ONLY)
    products = product_properties(spark, settings)
    try:
        products.write.parquet(str(directory / "product_properties.parquet"))
        for behaviour in ITEM_COLUMNS:
            select_behaviour(events, behaviour).write.parquet(str(directory / f"{behaviour}.parquet"))
        for row in events.groupBy(c.BEHAVIOUR).count().orderBy(c.BEHAVIOUR).collect():
            log.info("  %s: %s rows", row[c.BEHAVIOUR], f"{row['count']:,}")
        _write_targets(events, products, directory, settings)
    finally:
        events.unpersist()


def _write_targets(events: DataFrame, products: DataFrame, directory: Path, settings: ShopSettings) -> None:
    """Write the relevant clients, the active ones among them, and the labels with their popularity."""
    written = events.sparkSession.read.parquet(str(directory / f"{PRODUCT_BUY}.parquet"))
    buys = written.withColumn(c.TIMESTAMP, F.to_timestamp_ntz(c.TIMESTAMP))
    last_purchase = collect_last_timestamp(buys)
    if last_purchase is None:
        raise ConfigError("the made shop sold nothing: raise its n_clients or sessions_per_day")
    windows = derive_windows(last_purchase, WindowSettings())
    input_buys = events_before_targets(buys, windows)
    _save(_collect_ids(_keep_relevant(events, settings)), directory / "input" / "relevant_clients.npy")
    _save(_collect_ids(_keep_relevant(input_buys, settings)), directory / "target" / "active_clients.npy")

    bought = target_events(purchases_with_properties(buys, products), windows)
    bought = bought.where(F.col(c.WINDOW) == TRAIN)
    bought_new = purchases_of_new_skus(bought, input_buys)
    for task, column in PROPENSITY.items():
        labels = collect_top_labels(bought_new if task == NEW_SKU else bought, column)
        ids = np.array([label for label, _ in labels], dtype=np.int64)
        popularity = np.array([share for _, share in labels], dtype=np.float64)
        _save(ids, directory / "target" / f"{task}.npy")
        _save(popularity, directory / "target" / f"popularity_{task}.npy")


def _keep_relevant(events: DataFrame, settings: ShopSettings) -> DataFrame:
    share = F.pmod(F.xxhash64(c.CLIENT_ID, F.lit(settings.seed)), F.lit(_HASH_STEPS)) / _HASH_STEPS
    return events.where(share < settings.relevant_share)


def _collect_ids(events: DataFrame) -> np.ndarray:
    """The events' clients, each once, rising: int64."""
    ids = np.asarray(events.select(c.CLIENT_ID).distinct().toPandas(), dtype=np.int64)
    return np.sort(ids.ravel())


def _save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
