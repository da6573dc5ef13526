"""The Spark inference job beside the paper's loop; its memory for more and more clients; the time for a million.

    python benchmarks/inference.py

Random sequences of uniform items, lengths geometric with mean 9.4 and cut at 128, and models of random weights, which
take as long as trained ones. Every figure comes from a process of its own.

- ``speed``: clients of one behaviour per second with the paper's model, six layers of 256. The paper's loop is written
  again from its description: batches in the order they come, padded to 128, the mean of the last layer's token vectors;
  its ids are there from the start, and nothing is written. The job's time is that of the stages ``embed`` and
  ``profile``, from the tables of clients and sequences to the tables of blocks and profiles and the entries on disk;
  the JVM's start is measured apart. Both have two threads.
- ``memory``: peaks of the JVM and of all Python processes (pages that they share count once), with a tiny model.
- ``million``: the time for a million clients of five behaviours with the paper's models, from two measured parts.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measure import measure
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from report_loop import BATCH_SIZE, MAX_LENGTH, PAD, ReportModel

from conf.load import load_config
from conf.pipeline import PipelineConfig
from conf.spark import SparkSettings
from jobs.runtime.session import build_session
from jobs.stages import embed, profiles
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from jobs.transforms.windows import derive_windows, windows_frame
from ml.bench import made_sequences
from ml.compat.allocator import keep_freed_memory
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import build_encoder
from ml.training.checkpoint import ModelCard, save_model
from schemas.tables import CLIENTS, SEQUENCES, VOCABULARIES, WINDOWS
from schemas.tokens import FIRST_ITEM

N_THREADS = 2
MEAN_LENGTH = 9.4
N_ITEMS = 10_000
TINY = {"hidden_size": 8, "n_layers": 1, "n_heads": 1, "feed_forward_size": 8}
DRIVER_MEMORY = "1g"
MADE = "made"
"""File that is written when all that a run reads is there."""


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes
    ----------
    side : ``report`` or ``ubp``
    n_users : that have each behaviour
    behaviours : of the job
    is_tiny : a model of one layer of 8 instead of the paper's
    """

    side: str
    n_users: int
    behaviours: tuple[str, ...] = ("page_visit",)
    is_tiny: bool = False


def embed_report(run: Run) -> float:
    """The paper's loop: seconds."""
    torch.set_num_threads(N_THREADS)
    keep_freed_memory()
    sequences = made_sequences(run.n_users, MEAN_LENGTH, MAX_LENGTH, N_ITEMS, seed=0)
    rows = torch.from_numpy(sequences.padded(np.arange(run.n_users), MAX_LENGTH)).long()
    model = ReportModel(FIRST_ITEM + N_ITEMS).eval()
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in rows.split(BATCH_SIZE):
            embed_padded(model, batch)
    return time.perf_counter() - started


def embed_padded(model: ReportModel, token_ids: torch.Tensor) -> np.ndarray:
    """The mean of the last layer's vectors, padding left out, float32 [B, D]; every position is computed."""
    is_token = (token_ids != PAD).unsqueeze(-1)
    x = model.item_table(token_ids) + model.position_table(torch.arange(token_ids.shape[1]))
    x = model.encoder(model.projection(model.norm(x)), src_key_padding_mask=token_ids == PAD)
    return ((x * is_token).sum(dim=1) / is_token.sum(dim=1)).numpy()


def embed_ubp(run: Run, folder: Path) -> float:
    """The job: seconds of its stages, without the JVM's start."""
    workspace = Workspace(folder / "out")
    workspace.prepare()
    config = job_config(run)
    settings = SparkSettings(master=f"local[{N_THREADS}]", driver_memory=DRIVER_MEMORY, shuffle_partitions=16)
    spark = build_session(settings, workspace.logs / "spark.log")
    if not (folder / MADE).exists():
        make_tables(spark, config, workspace, run)
        (folder / MADE).touch()
        spark.stop()
        return 0.0
    started = time.perf_counter()
    embed.run(spark, config, workspace)
    profiles.run(spark, config, workspace)
    seconds = time.perf_counter() - started
    spark.stop()
    return seconds


def job_config(run: Run) -> PipelineConfig:
    """The paper's configuration, with the behaviours and the model of the run."""
    config = load_config("report", ["ensemble.blocks=[]", "ensemble.activity=false"])
    shape = TINY if run.is_tiny else {}
    encoder = replace(config.encoders["page_visit"], max_length=MAX_LENGTH, **shape)  # of the longest sequences
    return replace(
        config,
        model=replace(config.model, **shape),
        behaviours=dict.fromkeys(run.behaviours, config.behaviours["page_visit"]),
        encoders={name: replace(encoder, behaviours=(name,)) for name in run.behaviours},
    )


def make_tables(spark: SparkSession, config: PipelineConfig, workspace: Workspace, run: Run) -> None:
    """Write what the job reads: windows, clients, sequences, vocabularies and models of random weights."""
    write_table(windows_frame(spark, derive_windows(datetime(2022, 9, 28), config.windows)), workspace, WINDOWS)
    ids = spark.range(run.n_users, numPartitions=max(2, run.n_users // 50_000))
    clients = ids.select(F.col("id").alias("position"), (F.col("id") * 7 + 1).alias("client_id"), F.lit(True))
    write_table(clients.toDF("position", "client_id", "is_active"), workspace, CLIENTS)
    words = spark.range(N_ITEMS).select(
        F.explode(F.array(*map(F.lit, run.behaviours))).alias("behaviour"),
        F.col("id").cast("string").alias("key"),
        (F.col("id") + FIRST_ITEM).cast("int").alias("token_id"),
        F.lit(1).cast("bigint").alias("n_events"),
    )
    write_table(words, workspace, VOCABULARIES)
    rows = ids.repartition(max(2, run.n_users // 50_000)).mapInArrow(partial(draw_rows, run.behaviours), SEQUENCES.ddl)
    write_table(rows, workspace, SEQUENCES, is_log=True)
    summaries = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    for name in run.behaviours:
        torch.manual_seed(0)
        vocabulary = VocabularyDescription(FIRST_ITEM + N_ITEMS)
        card = ModelCard(name, config.encoders[name], vocabulary, summaries[name].fingerprint, 0)
        save_model(workspace.model(name), build_encoder(card.settings, vocabulary), card, {})


def draw_rows(behaviours: tuple[str, ...], batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    """Rows of ``tables/sequences`` for ids of clients, in no order of clients."""
    for batch in batches:
        ids = batch.column(0).to_numpy()
        for number, name in enumerate(behaviours):
            made = made_sequences(len(ids), MEAN_LENGTH, MAX_LENGTH, N_ITEMS, seed=int(ids[0]) * 31 + number)
            lists = pa.ListArray.from_arrays(pa.array(made.offsets, pa.int32()), pa.array(made.tokens))
            columns = [
                pa.array([name] * len(ids)),
                pa.array(np.zeros(len(ids), bool)),
                pa.array(np.full(len(ids), MAX_LENGTH, np.int32)),
                pa.array(ids * 7 + 1),
                lists,
                pa.array(made.lengths.astype(np.int64)),
                pa.nulls(len(ids), pa.list_(pa.int8())),
                pa.nulls(len(ids), pa.list_(pa.int64())),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema_names())


def schema_names() -> list[str]:
    """The columns of ``tables/sequences``."""
    return [column.split()[0] for column in SEQUENCES.ddl.split(", ")]


def measure_run(run: Run, folder: Path) -> dict[str, Any]:
    """Seconds and peaks of a run in a process of its own, whose tables another one writes before."""
    place = folder / f"{len(run.behaviours)}x{run.n_users}{'-tiny' * run.is_tiny}"
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--folder", str(place), "--run", json.dumps(asdict(run))]
    if run.side == "ubp" and not (place / MADE).exists():
        measure(command)
    took = measure(command)
    seconds = json.loads((place / "seconds.json").read_text())
    python = sum(peak for name, peak in took.peaks_gib.items() if name.startswith("python"))
    peaks = {"java": took.peaks_gib.get("java", 0.0), "python": python, "all": took.peak_gib}
    return {"seconds": seconds, "wall_s": took.wall_s, "peaks_gib": peaks}


def compare_speed(arguments: argparse.Namespace) -> None:
    """Print clients per second of both sides."""
    report = measure_run(Run("report", arguments.report_users), arguments.folder)
    ours = measure_run(Run("ubp", arguments.users), arguments.folder)
    speeds = arguments.report_users / report["seconds"], arguments.users / ours["seconds"]
    with_start = arguments.users / ours["wall_s"]
    print("\n| | users | seconds | users/s | ratio |\n|---|---|---|---|---|")
    print(f"| report's loop | {arguments.report_users:,} | {report['seconds']:.1f} | {speeds[0]:.1f} | 1 |")
    print(f"| ubp | {arguments.users:,} | {ours['seconds']:.1f} | {speeds[1]:.1f} | {speeds[1] / speeds[0]:.1f} |")
    ratio = with_start / speeds[0]
    print(f"| ubp with the JVM's start | {arguments.users:,} | {ours['wall_s']:.1f} | {with_start:.1f} | {ratio:.1f} |")


def show_memory(arguments: argparse.Namespace) -> None:
    """Print the job's peaks for each number of clients."""
    print("\n| users | seconds | JVM, GiB | Python, GiB | all, GiB |\n|---|---|---|---|---|")
    for n_users in map(int, arguments.memory_users):
        took = measure_run(Run("ubp", n_users, is_tiny=True), arguments.folder)
        peaks = took["peaks_gib"]
        told = " | ".join(f"{peaks[kind]:.2f}" for kind in ("java", "python", "all"))
        print(f"| {n_users:,} | {took['seconds']:.1f} | {told} |", flush=True)


def show_million(arguments: argparse.Namespace) -> None:
    """Print the measured parts and what they make for a million clients of five behaviours."""
    behaviours = ("product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query")
    few, many = (
        (n_users, measure_run(Run("ubp", n_users, behaviours), arguments.folder)["seconds"])
        for n_users in map(int, arguments.part_users)
    )
    per_user = (many[1] - few[1]) / (many[0] - few[0])
    total = many[1] + (1_000_000 - many[0]) * per_user
    parts = ", ".join(f"{n_users:,} users in {seconds:.1f} s" for n_users, seconds in (few, many))
    print(f"\nfive behaviours, all users in each: {parts}; a million in {total / 60:.0f} min, by a straight line")


TABLES: dict[str, Callable[[argparse.Namespace], None]] = {
    "speed": compare_speed,
    "memory": show_memory,
    "million": show_million,
}


def main() -> None:
    """Measure and print, or be one of the processes measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--report-users", type=int, default=1_024)
    parser.add_argument("--memory-users", nargs="+", type=float, default=[2e5, 2e6])
    parser.add_argument("--part-users", nargs=2, type=float, default=[5e3, 2e4])
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/inference"), help="for intermediate files")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        values = json.loads(arguments.run)
        run = Run(**{**values, "behaviours": tuple(values["behaviours"])})
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("jobs").setLevel(logging.INFO)
        seconds = embed_report(run) if run.side == "report" else embed_ubp(run, arguments.folder)
        (arguments.folder / "seconds.json").write_text(json.dumps(seconds))
        return
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {N_THREADS} threads in all")
    for table in arguments.tables:
        TABLES[table](arguments)


if __name__ == "__main__":
    main()
