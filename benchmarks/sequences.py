"""Page visits in the challenge's files -> typed events, vocabulary and sequences on disk: ubp beside Polars.

    python benchmarks/sequences.py                          # 20 and 150 million visits
    python benchmarks/sequences.py --visits 2e6
    python benchmarks/sequences.py --merged --events 2e6    # one merged stream beside the five of one behaviour

Both sides read the same simulated files (rows in no particular order), keep urls with at least 5 visits, order by time
and then url, and keep each client's last 128 visits. ubp runs its own stages on two local cores with a heap of 2 GiB
and writes Delta tables; Polars uses its streaming engine and writes Parquet. Each side runs alone, in its own process;
the sequences of the two are compared row by row afterwards. ubp does not count exact duplicates here
(``ingest.count_duplicates``): Polars does not either.

With ``--merged``, the stage ``sequences`` runs on a benchmark log of all five behaviours, first for the five streams of
one behaviour, then for one stream that merges them (its last 256 events, with types and times). CPU seconds are those
of the whole process, less those of one that only starts a session.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
from measure import Measurement, measure
from page_visits import LAST, MIN_COUNT, SOURCE, Stages, run_stages, start_session

from conf.load import load_config, to_yaml
from conf.pipeline import PipelineConfig
from jobs.stages import sequences as build_sequences
from jobs.storage.workspace import Workspace
from jobs.synthetic.benchmark_log.files import behaviour_rows
from jobs.synthetic.benchmark_log.marginals import PUBLISHED, scale_sizes

log = logging.getLogger("benchmark")


def run_ubp(data: Path, out: Path, n_cores: int) -> None:
    """The project's own stages."""
    workspace, stages = Workspace(out, data), Stages()
    workspace.prepare()
    with stages("start"):
        spark = start_session(workspace.logs / "spark.log", n_cores)
    work = run_stages(spark, workspace, stages)
    (out / "work.json").write_text(json.dumps({name: asdict(done) for name, done in work.items()}))
    (out / "stages.json").write_text(json.dumps(stages.seconds))


def run_polars(data: Path, out: Path, n_cores: int) -> None:
    """The same work by Polars' streaming engine, on all cores (it takes no number once it is imported)."""
    stages = Stages()
    pl.Config.set_engine_affinity("streaming")
    typed_at, words_at = out / "page_visit.parquet", out / "vocabulary.parquet"
    time_of_day = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    with stages("typed events"):
        source = pl.scan_parquet(data / SOURCE / "*.parquet").with_columns(time_of_day)
        source.filter(pl.all_horizontal(pl.all().is_not_null())).sink_parquet(typed_at)
    events = pl.scan_parquet(typed_at)
    with stages("vocabulary"):
        counts = events.group_by("url").len("n_events").filter(pl.col("n_events") >= MIN_COUNT)
        ranked = counts.sort("n_events", "url", descending=[True, False]).with_row_index("token_id", offset=3)
        ranked.with_columns(pl.col("token_id").cast(pl.Int32)).sink_parquet(words_at)
    with stages("sequences"):
        tokens = events.join(pl.scan_parquet(words_at).select("url", "token_id"), on="url")
        last = pl.col("token_id").sort_by("timestamp", "url").tail(LAST).alias("token_ids")
        sequences = tokens.group_by("client_id").agg(last, pl.len().cast(pl.Int64).alias("n_events"))
        sequences.sink_parquet(out / "sequences.parquet")
    (out / "stages.json").write_text(json.dumps(stages.seconds))


def run_nothing(data: Path, out: Path, n_cores: int) -> None:
    """What each of the next two does besides its work."""
    run_streams(out, n_cores, [])


def run_five(data: Path, out: Path, n_cores: int) -> None:
    """The sequences of the five behaviours."""
    run_streams(out, n_cores, [name for name in merged_config().encoders if name != MERGED])


def run_merged(data: Path, out: Path, n_cores: int) -> None:
    """The sequences of the five behaviours merged."""
    run_streams(out, n_cores, [MERGED])


def run_streams(out: Path, n_cores: int, encoders: Sequence[str]) -> None:
    """The stage ``sequences`` for what some encoders read."""
    workspace, config = Workspace(out), merged_config()
    spark = start_session(workspace.logs / "spark.log", n_cores)
    chosen = {name: config.encoders[name] for name in encoders}
    if chosen:
        build_sequences.run(spark, replace(config, encoders=chosen), workspace)


def merged_config() -> PipelineConfig:
    """The paper's encoders, and one of all their behaviours."""
    config = load_config("report")
    behaviours = tuple(config.behaviours)
    merged = replace(config.encoders["page_visit"], behaviours=behaviours, max_length=256)
    return replace(config, encoders={**config.encoders, MERGED: merged})


def compare_merged(folder: Path, n_events: int) -> None:
    """Print the CPU seconds of the merged stream beside those of the five, on so many events."""
    data, out = make_log(folder, n_events), folder / f"merged-{n_events}"
    if not (out / "config.yaml").exists():
        out.mkdir(parents=True)
        (folder / "merged.yaml").write_text(to_yaml(merged_config()))
        flags = ["--data", str(data), "--out", str(out), "--config", str(folder / "merged.yaml")]
        subprocess.run([sys.executable, "-m", "jobs.cli", "run", *flags, "--to", "vocabulary"], check=True)
    took = {}
    for side in ("nothing", "five", "merged"):
        took[side] = measure([sys.executable, __file__, "--side", side, str(data), str(out), "2"])
    five, merged = (took[side].cpu_s - took["nothing"].cpu_s for side in ("five", "merged"))
    print(
        f"{n_events:,} events | five streams {five:.1f} CPU s | merged {merged:.1f} CPU s | ratio {merged / five:.2f}"
    )
    peaks = ", ".join(f"{side} {took[side].peak_gib:.2f}" for side in ("five", "merged"))
    print(f"peak memory in GiB: {peaks}")


MERGED = "mixed"
SIDES: dict[str, Callable[[Path, Path, int], None]] = {
    "ubp": run_ubp,
    "polars": run_polars,
    "nothing": run_nothing,
    "five": run_five,
    "merged": run_merged,
}
COMPARED = ("ubp", "polars")
SEQUENCE_FILES = {"ubp": "tables/sequences/**/*.parquet", "polars": "sequences.parquet"}


def find_n_events(behaviour: str, n_rows: int) -> int:
    """The smallest log with exactly so many rows of a behaviour."""
    share = PUBLISHED.n_rows[behaviour] / PUBLISHED.n_events
    # rounding moves a behaviour's rows by one, those of page visits by a few
    margin = round(5 / share)
    around = round(n_rows / share)
    return next(
        n_events
        for n_events in range(max(0, around - margin), around + margin)
        if scale_sizes(n_events).n_rows[behaviour] == n_rows
    )


def make_log(folder: Path, n_events: int) -> Path:
    """The challenge directory with so many simulated events of all behaviours, written once."""
    data = folder / f"log-{n_events}"
    if not data.exists():
        made = [sys.executable, "-m", "jobs.cli", "generate", "--out", str(data), "--events", str(n_events)]
        subprocess.run(made, check=True)
    return data


def make_visits(folder: Path, n_visits: int) -> Path:
    """The challenge directory with so many simulated visits, written once."""
    data = folder / f"visits-{n_visits}"
    if not (data / SOURCE / "_SUCCESS").exists():
        from conf.synthetic import BenchmarkLogSettings

        log.info("making %s visits", f"{n_visits:,}")
        data.mkdir(parents=True, exist_ok=True)
        spark = start_session(folder / "spark.log")
        rows = behaviour_rows(spark, "page_visit", BenchmarkLogSettings(n_events=find_n_events("page_visit", n_visits)))
        n_files = max(2, n_visits // 5_000_000)
        rows.repartition(n_files, "timestamp").write.mode("overwrite").parquet(str(data / SOURCE))
        spark.stop()
    return data


def compare_sequences(folder: Path) -> int:
    """How many clients the two sides agree on; raises if they differ anywhere."""
    sides = [_read_sequences(folder / side / files) for side, files in SEQUENCE_FILES.items()]
    for name, ours, theirs in zip(("clients", "counts", "lengths", "tokens"), *sides, strict=True):
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"the two sides differ in their {name}")
    return len(sides[0][0])


def _read_sequences(files: Path) -> tuple[np.ndarray, ...]:
    rows = (
        pl.scan_parquet(files, hive_partitioning=False).select("client_id", "n_events", "token_ids").sort("client_id")
    )
    table = rows.collect().rechunk()
    lengths, tokens = table["token_ids"].list.len(), table["token_ids"].explode()
    return tuple(column.to_numpy() for column in (table["client_id"], table["n_events"], lengths, tokens))


def run_side(side: str, data: Path, out: Path, n_cores: int = 2) -> tuple[Measurement, dict[str, float]]:
    """One side in a process of its own: what it took, and the wall time of its stages."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    measured = measure([sys.executable, __file__, "--side", side, str(data), str(out), str(n_cores)])
    return measured, json.loads((out / "stages.json").read_text())


def compare(folder: Path, n_visits: int) -> dict[str, dict[str, float]]:
    """Both sides on so many visits: side -> its figures."""
    data = make_visits(folder, n_visits)
    results = {}
    for side in COMPARED:
        log.info("%s on %s visits", side, f"{n_visits:,}")
        took, stages = run_side(side, data, folder / side)
        results[side] = {"wall s": took.wall_s, "CPU s": took.cpu_s, "peak GiB": took.peak_gib, **stages}
    log.info("the same sequences of %s clients", f"{compare_sequences(folder):,}")
    return results


def show(n_visits: int, results: dict[str, dict[str, float]]) -> None:
    """Print the two sides beside each other."""
    ubp, polars = results["ubp"], results["polars"]
    print(f"\n{n_visits:,} visits | {'ubp':>8} | {'Polars':>8} | ratio")
    for name in ubp:
        other = polars.get(name)
        ratio = f"{ubp[name] / other:.2f}" if other else ""
        print(f"{name:>{len(f'{n_visits:,}') + 7}} | {ubp[name]:8.2f} | {other or 0:8.2f} | {ratio}")


def show_growth(results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Cost per visit of the largest size against the smallest, without the JVM's start."""
    small, large = min(results), max(results)
    for side in COMPARED:
        per_visit = {n: (results[n][side]["wall s"] - results[n][side].get("start", 0)) / n for n in (small, large)}
        told = ", ".join(f"{cost * 1e6:.3f} us at {n:,}" for n, cost in per_visit.items())
        print(f"{side}: wall per visit {told}: ratio {per_visit[large] / per_visit[small]:.2f}")


def main() -> None:
    """Measure and print, or be one of the two sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", nargs="+", type=float, default=[20e6, 150e6])
    parser.add_argument("--merged", action="store_true", help="one merged stream beside the five of one behaviour")
    parser.add_argument("--events", type=float, default=20e6, help="of all behaviours, with --merged")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"), help="made files and outputs")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if arguments.side:
        side, data, out, n_cores = arguments.side
        SIDES[side](Path(data), Path(out), int(n_cores))
        return
    if arguments.merged:
        compare_merged(arguments.folder, int(arguments.events))
        return
    results = {int(n_visits): compare(arguments.folder, int(n_visits)) for n_visits in arguments.visits}
    for n_visits, result in results.items():
        show(n_visits, result)
    if len(results) > 1:
        show_growth(results)


if __name__ == "__main__":
    main()
