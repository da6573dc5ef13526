"""A whole run in seconds, and all that it gives, for tests that compare two ways to run."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession
from safetensors.numpy import load_file

from conf.synthetic import ShopSettings
from jobs.cli import main
from jobs.commands.generate import generate_shop
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas import tables
from schemas.behaviours import ItemKind
from schemas.tables import TableSchema

BEHAVIOURS = {"product_buy": "sku", "page_visit": "url", "search_query": "query"}
ENCODERS = ("product_buy", "mixed")
EARLY = ("quarantine", "product_buy", "windows", "clients", "vocabularies", "item_attributes", "sequences")
"""Tables that are there before a model is trained."""
CONFIG = """
behaviours:
  product_buy: {item: sku}
  page_visit: {item: url, min_count: 2}
  search_query: {item: query, kind: codes}
encoders:
  product_buy: {behaviours: [product_buy], max_length: 8}
  mixed: {behaviours: [page_visit, product_buy, search_query], max_length: 8, history_chunks: 3}
sequences: {widths: [1, 8, 16], held_out_share: 0.1}
model: {hidden_size: 16, n_layers: 1, n_heads: 2, feed_forward_size: 16}
training: {n_ranks: 2, epochs: 2, tokens_per_batch: 512, learning_rate: 1.0e-3}
inference: {clients_per_partition: 50}
ensemble: {activity: true, blocks: [baseline]}
probe: {hidden_size: 16, epochs: 1}
spark: {driver_memory: 1g, shuffle_partitions: 2}
"""


@dataclass(frozen=True)
class TinyRun:
    """A simulated shop of 250 clients, the settings above, and what a run of two ranks in local mode made of them."""

    folder: Path

    @property
    def data(self) -> Path:
        """The shop."""
        return self.folder / "shop"

    @property
    def settings(self) -> Path:
        """The configuration file."""
        return self.folder / "tiny.yaml"

    @property
    def workspace(self) -> Workspace:
        """Where the run lies."""
        return Workspace(self.folder / "local")

    @property
    def is_made(self) -> Path:
        """There once the run is complete."""
        return self.folder / "made"

    def flags(self, out: Path) -> list[str]:
        """Of the same run with another ``--out``."""
        return ["--data", str(self.data), "--out", str(out), "--config", str(self.settings)]

    def make(self, spark: SparkSession) -> None:
        """Generate the shop and run all stages on it."""
        self.folder.mkdir()
        self.settings.write_text(CONFIG)
        generate_shop(spark, self.data, ShopSettings(n_clients=250, n_days=70, seed=3))
        assert main(["run", *self.flags(self.workspace.out)]) == 0


def read_tables(spark: SparkSession, workspace: Workspace, only: Collection[str] = ()) -> dict[str, list[str]]:
    """Table -> its rows but for vectors and scores, which ranks may round; of some tables, where they are named."""
    shared = [value for value in vars(tables).values() if isinstance(value, TableSchema)]
    # no id of the shop is text, and nobody asks for the graph and for recommendations
    left_out = (tables.BLOCKS, tables.PROFILES, tables.SCORES, tables.IDS, tables.EDGES, tables.RECOMMENDATIONS)
    kinds = {"sku": ItemKind.ID, "url": ItemKind.ID, "query": ItemKind.CODES}
    events = [tables.events_table(name, item, kinds[item]) for name, item in BEHAVIOURS.items()]
    kept = [*(table for table in shared if table not in left_out), *events]
    kept = [table for table in kept if not only or table.name in only]
    frames = {table.name: read_table(spark, workspace, table) for table in kept}
    return {name: sorted(map(str, frame.collect())) for name, frame in frames.items()}


def read_numbers(out: Path) -> dict[str, np.ndarray]:
    """Weights of each model, vectors of each entry and the scores, by name; of a run to the probe, or of less."""
    numbers: dict[str, np.ndarray] = {}
    for name in ENCODERS:
        weights = load_file(out / "models" / name / "weights.safetensors")
        numbers |= {f"{name}/{key}": value for key, value in weights.items()}
    for path in sorted((out / "entries").glob("*/*.npy")):
        numbers[f"{path.parent.name}/{path.name}"] = np.load(path, allow_pickle=False).astype(np.float64)
    scores = out / "scores.json"
    for entry, by_task in json.loads(scores.read_text()).items() if scores.exists() else ():
        numbers |= {f"{entry}/{task}": np.array(result["score"]) for task, result in by_task.items()}
    return numbers


def differences(first: dict[str, Any], second: dict[str, Any], tolerance: float = 0.0) -> list[str]:
    """Names of what one run lacks or has otherwise."""
    apart = sorted(first.keys() ^ second.keys())
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        if isinstance(one, np.ndarray):
            is_same = one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance)
        else:
            is_same = one == other
        if not is_same:
            apart.append(name)
    return apart
