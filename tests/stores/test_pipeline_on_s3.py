"""All stages with data, tables and output in S3, through a store that answers 503 for a while, against a local run.

Hadoop's connector, s3fs and moto's server are the real ones: `make test-stores`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from s3_server import BUCKET, S3Server
from tiny_run import CONFIG, ENCODERS

from ml.files.store import Store

pytestmark = pytest.mark.stores

AWAY_SECONDS = 12.0
DATA, OUT, CLUSTER_OUT, TABLES = (f"s3://{BUCKET}/{name}" for name in ("data", "run", "cluster", "elsewhere/tables"))


def ubp(*flags: object, code: int = 0) -> str:
    """What a command says."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    return told


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop, and a run on this machine's disk."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "tiny.yaml").write_text(CONFIG)
    ubp("generate", "--out", folder / "shop", "--clients", 250, "--days", 70, "--seed", 3)
    flags = ["--data", folder / "shop", "--out", folder / "out", "--config", folder / "tiny.yaml"]
    ubp("run", "--to", "profile", *flags)
    return folder


def test_a_run_in_s3_gives_the_clients_baseline_and_shapes_of_a_local_one_and_leaves_nothing_here(
    server: S3Server, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    shop = [path.relative_to(local / "shop").as_posix() for path in (local / "shop").rglob("*") if path.is_file()]
    Store(DATA).put(shop, local / "shop")
    flags = ["--data", DATA, "--out", OUT, "--config", local / "tiny.yaml"]
    told = [ubp("run", *flags, "--to", "sequences")]

    def go_away_once(method: str, path: str) -> None:
        if method == "PUT" and "checkpoints" in path and "run.safetensors" in path and not server.n_refused:
            server.away_until = time.monotonic() + AWAY_SECONDS

    server.on_request = go_away_once
    told.append(ubp("run", *flags))  # another process, that knows what the store knows
    assert "going on after sequences" in told[-1]
    assert server.n_refused
    told.append(ubp("status", "--out", OUT))
    assert told[-1].count("up to date") >= len(ENCODERS)

    store = Store(OUT)
    files = store.list_all()
    for name in ("scores.json", "report.html", "config.yaml", "metrics.jsonl", "provenance.json", "logs/spark.log"):
        assert name in files
    for name in ENCODERS:
        assert f"models/{name}/.complete" in files
    assert not [name for name in files if name.startswith(("checkpoints/", "logs/lock", "logs/metrics.turn"))]
    for entry in ("baseline", "ensemble", "ensemble+baseline"):
        for name in ("client_ids.npy", "embeddings.npy"):
            store.get([f"entries/{entry}/{name}"], tmp_path)
            found, expected = (np.load(folder / "entries" / entry / name) for folder in (tmp_path, local / "out"))
            assert found.shape == expected.shape
            if entry == "baseline" or name == "client_ids.npy":
                np.testing.assert_array_equal(found, expected)
    entries = {path.name for path in (local / "out" / "entries").iterdir()}
    assert json.loads(store.read("scores.json")).keys() == entries

    texts = (".yaml", ".json", ".jsonl", ".log", ".html")
    written = b"".join(store.read(name) for name in files if name.endswith(texts)).decode(errors="replace")
    for secret in ("secret-of-the-test", "key-of-the-test"):
        assert secret not in written
        assert secret not in "".join(told)
    assert [path.name for path in (tmp_path / "tmp").rglob("*") if path.suffix in (".npy", ".safetensors")] == []
    for text in (*told, store.read("provenance.json").decode()):
        assert str(tmp_path / "tmp") not in text, "messages and records name the store"


def test_graph_and_interactions_meet_in_the_store_where_executors_are_other_processes(
    server: S3Server, local: Path
) -> None:
    """The driver's disk is no executor's: rows for the ranks, and what they learn, go by the store or through Spark."""
    sizes = ("epochs=1", "min_buyers=5", "ranks=[3,2]", "n_bins=4", "n_sub_bins=2", "dense_widths=[4]", "batch_size=16")
    settings = ["ensemble.blocks=[baseline,graph,interactions]", "graph.dimensions=4", "graph.epochs=1"]
    settings += [f"interactions.{size}" for size in sizes]
    told = {}
    own = ["--data", local / "shop", "--config", local / "tiny.yaml"]
    ubp("run", *own, "--out", CLUSTER_OUT, "--to", "split")
    for out, master in ((local / "out", "local[2]"), (CLUSTER_OUT, "local-cluster[2,1,1024]")):
        flags = [*own, "--out", out]
        for stage in ("graph", "interactions"):
            lines = ubp(stage, *flags, "--set", *settings, f"spark.master={master}").splitlines()
            told[stage, master] = [line.split(" ", 1)[1] for line in lines if " loss " in line]
    for stage in ("graph", "interactions"):
        assert len(told[stage, "local[2]"]) == 1
        assert told[stage, "local[2]"] == told[stage, "local-cluster[2,1,1024]"]
    assert not [name for name in Store(CLUSTER_OUT).list_all() if name.startswith((".graph", ".interactions"))]


def test_inputs_in_s3_and_tables_elsewhere(server: S3Server, local: Path, tmp_path: Path) -> None:
    items, lines = {"product_buy": "sku", "page_visit": "url"}, ["inputs:"]
    for name, item in items.items():
        files = [path for path in (local / "shop").rglob("*.parquet") if path.is_file() and name in str(path)]
        Store(DATA).put([path.relative_to(local / "shop").as_posix() for path in files], local / "shop")
        columns = f"client_id: client_id, timestamp: timestamp, item: {item}"
        lines.append(f"  {name}: {{path: {DATA}/{name}.parquet, format: parquet, {columns}}}")
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    flags = ["--inputs", tmp_path / "own.yaml", "--out", f"s3://{BUCKET}/other", "--tables", TABLES]
    for stage in ("ingest", "split"):
        ubp(stage, *flags, "--config", local / "tiny.yaml")
    assert "tables/clients/_delta_log/00000000000000000000.json" in Store(f"s3://{BUCKET}/elsewhere").list_all()
    assert not [name for name in Store(f"s3://{BUCKET}/other").list_all() if name.startswith("tables")]
