"""A CSV file with text for ids goes in; ``tables/profiles`` gives the texts back, each with its own events."""

import math
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from tiny_run import CONFIG

from jobs.blocks.table import collect_blocks
from jobs.cli import main
from jobs.profiles.export import CLIENT_KEYS
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.tables import BLOCKS, PROFILES, RECOMMENDATIONS

MAPPING = """
shared: {path: log.csv, client_id: customer, timestamp: at, item: sku}
inputs:
  product_buy: {where: "kind = 'bought'"}
  page_visit: {where: "kind = 'seen'"}
"""
FIRST, DAYS = datetime(2024, 1, 1, 12), 70
CUTOFF = FIRST + timedelta(days=DAYS - 28)


@pytest.mark.slow
def test_profiles_and_recommendations_have_the_users_own_ids(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bought: Counter[str] = Counter()
    lines = ["customer,at,kind,sku"]
    for client in range(24):
        name = f"Größe-{client:03}@shop"
        for event in range(2 + client % 5):
            at = FIRST + timedelta(days=(client + 9 * event) % DAYS)
            bought[name] += at < CUTOFF
            lines += [f"{name},{at.isoformat()}Z,bought,sku-{(client + event) % 7}"]
            lines += [f"{name},{at.isoformat()}Z,seen,page-{(client * event) % 5}"]
    lines.append(f"last,{(FIRST + timedelta(days=DAYS - 1, hours=11)).isoformat()}Z,bought,sku-1")
    (tmp_path / "log.csv").write_text("\n".join(lines))
    (tmp_path / "own.yaml").write_text(MAPPING)
    visits = "  page_visit: {behaviours: [page_visit], max_length: 8}\n"  # a second encoder to recommend by
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("  mixed: {", f"{visits}  mixed: {{"))
    out = Workspace(tmp_path / "out")
    files = {"inputs": tmp_path / "own.yaml", "data": tmp_path, "out": out.out, "config": tmp_path / "tiny.yaml"}
    flags = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    briefly = ["training.n_ranks=1", "training.epochs=1", "encoders.mixed=null", "ensemble.blocks=[]"]
    assert main(["run", *flags, "--to", "profile", "--set", *briefly]) == 0

    profiles = (
        read_table(spark, out, PROFILES).where("profile = 'ensemble'").select("client_id", "client_key", "models")
    )
    rows = profiles.collect()
    made_from = {name: block.made_from for name, block in collect_blocks(spark, out).items()}
    assert rows[0]["models"] == {name: made_from[name] for name in ("product_buy", "page_visit")}
    assert sorted(row["client_key"] for row in rows) == sorted(name for name, n in bought.items() if n)

    for encoder, n_items in (("product_buy", 2), ("page_visit", 9), ("product_buy", 2)):
        assert main(["recommend", *flags, "--encoder", encoder, "--top", str(n_items), "--set", *briefly]) == 0
    recommended = read_table(spark, out, RECOMMENDATIONS).collect()
    for encoder, kind, n_items in (("product_buy", "sku", 2), ("page_visit", "page", 5)):
        lists: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(row for row in recommended if row["encoder"] == encoder):
            lists[row["client_key"]].append(row)
        assert lists.keys() == {name for name, n in bought.items() if n}
        for own in lists.values():
            assert [row["position"] for row in own] == [*range(1, n_items + 1)]
            assert len({row["item"] for row in own} & {f"{kind}-{n}" for n in range(7)}) == n_items
            assert [row["score"] for row in own] == sorted((row["score"] for row in own), reverse=True)
    assert main(["recommend", *flags, "--encoder", "mixed", "--set", *briefly]) == 2
    assert "of product_buy, page_visit, found none of this name" in caplog.text

    for entry in ("ensemble", "page_visit", "baseline"):
        keys = sorted(pq.read_table(out.entry(entry) / CLIENT_KEYS).to_pylist(), key=lambda row: row["position"])
        assert [row["client_id"] for row in keys] == np.load(out.entry(entry) / "client_ids.npy").tolist()
        assert {row["client_id"]: row["client_key"] for row in keys} == {
            row["client_id"]: row["client_key"] for row in rows
        }
    activity = read_table(spark, out, BLOCKS).where("block = 'activity'")
    own = activity.join(profiles, "client_id").select("client_key", F.col("vector")[0].alias("value")).collect()
    assert {row["client_key"]: round(math.expm1(row["value"])) for row in own} == {k: n for k, n in bought.items() if n}
