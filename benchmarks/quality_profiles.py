"""The scores of a run's entries over many seeds, on a machine with torch and numpy alone: a GPU needs minutes.

    python benchmarks/quality_profiles.py pack OUT FILE.npz                  # where the run lies, with Spark
    python benchmarks/quality_profiles.py score FILE.npz SCORES.jsonl --repeats 10

``pack`` puts the entries of ``OUT/entries`` and the labels of its tables into one file; ``--entry NAME=DIR`` adds an
entry with the same clients in the same order. ``score`` trains the challenge's probe on every entry, task and repeat as
``ubp probe`` does, several at once, prints the mean and the standard deviation over the repeats, and marks what they do
not tell from the highest of its column. SCORES.jsonl holds a line per score; what it holds already of this FILE.npz is
not scored again. Where the project is not installed, set PYTHONPATH to its root.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from conf.evaluation import ProbeSettings
from jobs.evaluation.comparison import (
    SUM,
    Scores,
    compare_entries,
    describe_comparisons,
    figures,
    mean_score,
    result_of,
)
from jobs.reporting.tables import judged
from ml.evaluation.probe import over_repeats, score_task
from schemas.tasks import PROPENSITY, TASKS, TRAIN, VALIDATION, WINDOWS, TaskScore

if TYPE_CHECKING:
    from conf.pipeline import PipelineConfig
    from jobs.storage.workspace import Workspace


class Unit(NamedTuple):
    """One training of the probe; its fields, and the score, are a line of the results."""

    entry: str
    task: str
    repeat: int
    hidden_size: int
    precision: Literal["float32", "tf32", "bfloat16"]


def pack(out: Path, file: Path, others: dict[str, Path]) -> None:
    """Write ``entry/NAME`` (float16 [N, d]) of a run's and other entries, and of each task what a probe reads."""
    from conf.load import load_config
    from jobs.evaluation.scores import list_entries
    from jobs.storage.entry_rules import CLIENT_IDS, EMBEDDINGS
    from jobs.storage.workspace import Workspace

    config, workspace = load_config(str(out / "config.yaml")), Workspace(out)
    folders = {path.name: path for path in list_entries(workspace, list(config.encoders))} | others
    arrays = read_labels(config, workspace)
    client_ids = arrays.pop("client_ids")
    for name, folder in folders.items():
        if not np.array_equal(np.load(folder / CLIENT_IDS), client_ids):
            raise SystemExit(f"{folder}: expected the clients of {out} in their order, found others")
        arrays[f"entry/{name}"] = np.load(folder / EMBEDDINGS)
    np.savez_compressed(file, **arrays)
    print(f"{file}: {', '.join(folders)}; {len(client_ids):,} clients")


def read_labels(config: "PipelineConfig", workspace: "Workspace") -> dict[str, np.ndarray]:
    """``client_ids`` int64 [N]; ``TASK/rows`` int64 [n], whom a task asks; ``TASK/WINDOW`` uint8 [n, labels]."""
    from jobs.evaluation.probe_units import list_units, read_label_rows
    from jobs.evaluation.scores import collect_scorable_tasks
    from jobs.runtime.session import build_session
    from jobs.storage.delta_tables import read_as_files, read_table
    from jobs.storage.entry_files import read_client_ids, snapshot_files
    from schemas.tables import CLIENTS, LABELS, TARGETS

    spark = build_session(config.spark, workspace.logs / "pack.log")
    clients, targets = read_as_files(spark, workspace, CLIENTS), read_as_files(spark, workspace, TARGETS)
    tasks, labels = collect_scorable_tasks(targets), read_table(spark, workspace, LABELS)
    client_ids = read_client_ids(snapshot_files(clients))
    arrays = {"client_ids": client_ids}
    for unit in list_units(
        [workspace.out], tasks, clients, targets, labels, ProbeSettings(), workspace.logs / "unused"
    ):
        arrays[f"{unit.task}/popularity"] = np.array(unit.popularity)
        for window in WINDOWS:
            labels_of, is_there = read_label_rows(unit.targets[window], len(client_ids), len(unit.popularity) or 1)
            arrays[f"{unit.task}/rows"] = np.flatnonzero(is_there)
            arrays[f"{unit.task}/{window}"] = np.unpackbits(labels_of.bits[is_there], axis=1, count=labels_of.n_labels)
    return arrays


@cache
def read_array(file: Path, name: str) -> np.ndarray:
    """One array of a packed file; a process reads it once."""
    with np.load(file) as arrays:
        return arrays[name]


def score(unit: Unit, file: Path, device: str, n_threads: int) -> tuple[Unit, TaskScore]:
    """The best of the probe's epochs."""
    torch.set_num_threads(n_threads)
    read = partial(read_array, file)
    result = score_task(
        read(f"entry/{unit.entry}"),
        read(f"{unit.task}/{TRAIN}"),
        read(f"{unit.task}/{VALIDATION}"),
        unit.task,
        read(f"{unit.task}/popularity") if unit.task in PROPENSITY else None,
        ProbeSettings(hidden_size=unit.hidden_size, precision=unit.precision),
        rows=read(f"{unit.task}/rows"),
        device=device,
        repeat=unit.repeat,
    )
    return unit, result


def list_units_of(file: Path, arguments: argparse.Namespace) -> Iterator[Unit]:
    """The wanted entries and tasks of a packed file, the organisers' run of all before the further repeats."""
    with np.load(file) as arrays:
        entries = [name.removeprefix("entry/") for name in arrays.files if name.startswith("entry/")]
        tasks = [task for task in TASKS if f"{task}/rows" in arrays.files]
    wanted = itertools.product(range(arguments.repeats), arguments.tasks or tasks, arguments.entries or entries)
    for repeat, task, entry in wanted:
        yield Unit(entry, task, repeat, arguments.hidden_size, arguments.precision)


def read_results(lines: Path, digest: str) -> dict[Unit, TaskScore]:
    """What was scored before, of a packed file with the same bytes."""
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return {Unit(**row["unit"]): TaskScore(**row["result"]) for row in rows if row["packed"] == digest}


def score_all(file: Path, lines: Path, arguments: argparse.Namespace) -> dict[Unit, TaskScore]:
    """The results of all units, several processes at once."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    units, known = list(list_units_of(file, arguments)), read_results(lines, digest)
    waiting = [unit for unit in units if unit not in known]
    work = partial(score, file=file, device=device, n_threads=arguments.threads)
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool, lines.open("a") as stream:
        for number, (unit, result) in enumerate(pool.imap_unordered(work, waiting), start=1):
            known[unit] = result
            stream.write(json.dumps({"packed": digest, "unit": unit._asdict(), "result": asdict(result)}) + "\n")
            stream.flush()
            if number % 20 == 0 or number == len(waiting):
                print(f"{number} of {len(waiting)} after {time.monotonic() - started:.0f} s", flush=True)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} threads"
    print(f"{arguments.processes} processes, {name}, {arguments.precision}, hidden size {arguments.hidden_size}")
    return {unit: known[unit] for unit in units}


def show(results: dict[Unit, TaskScore]) -> None:
    """A Markdown table: a row per entry, mean ± standard deviation over the repeats; last, the sum over the tasks.

    A tilde marks what the repeats do not tell from the highest mean of the column. ``oracle`` takes no part in that.
    """
    tasks = list(dict.fromkeys(unit.task for unit in results))
    scores: Scores = {}
    for entry, task in dict.fromkeys((unit.entry, unit.task) for unit in results):
        of_task = [result for unit, result in results.items() if (unit.entry, unit.task) == (entry, task)]
        scores.setdefault(entry, {})[task] = figures(over_repeats(of_task))
    rivals = judged(scores)
    comparisons = compare_entries(rivals)
    titles = [task.removeprefix("propensity_").replace("_", " ") for task in (*tasks, SUM)]
    print(f"| entry | {' | '.join(titles)} |")
    print("|---" * (len(titles) + 1) + "|")
    for entry, of_entry in scores.items():
        cells = []
        for column in (*tasks, SUM):
            total = result_of(of_entry, column)
            best = max(rivals, key=lambda name: mean_score(result_of(rivals[name], column)))
            mark = "~" if comparisons.tell_apart(column, entry, best) is False else ""
            spread = f" ± {total['std']:.4f}" if "std" in total else ""
            cells.append(f"{mark}{mean_score(total):.4f}{spread}")
        print(f"| {entry} | {' | '.join(cells)} |")
    if len(comparisons):
        print(f"~ not told from the highest mean of its column: {describe_comparisons(comparisons)}")


def main() -> None:
    """Pack, or score and print."""
    arguments = parse_arguments()
    if arguments.command == "pack":
        others: dict[str, Any] = dict(entry.split("=", 1) for entry in arguments.entry)
        pack(arguments.out, arguments.file, {name: Path(folder) for name, folder in others.items()})
    else:
        show(score_all(arguments.file, arguments.scores, arguments))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("out", type=Path, help="of the run, all stages to targets done")
    packing.add_argument("file", type=Path)
    packing.add_argument("--entry", nargs="+", action="extend", default=[], metavar="NAME=DIR")
    scoring = commands.add_parser("score")
    scoring.add_argument("file", type=Path)
    scoring.add_argument("scores", type=Path)
    scoring.add_argument("--repeats", type=int, default=3)
    scoring.add_argument("--entries", nargs="+", default=[], help="some of the entries; all where none is named")
    scoring.add_argument("--tasks", nargs="+", default=[], choices=TASKS)
    scoring.add_argument("--hidden-size", type=int, default=ProbeSettings().hidden_size)
    scoring.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    scoring.add_argument("--processes", type=int, default=4, help="units that are scored at once")
    scoring.add_argument("--threads", type=int, default=1, help="of each process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
