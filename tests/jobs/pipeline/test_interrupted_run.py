"""Ctrl-C, which reaches the driver, its JVM and its Python workers alike, and SIGTERM end a run in one line."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_runs import started, wait_until


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number", "code"),
    [
        (os.killpg, signal.SIGINT, 130),
        pytest.param(os.killpg, signal.SIGTERM, 143, marks=pytest.mark.faults),
        pytest.param(os.kill, signal.SIGTERM, 143, marks=pytest.mark.faults),
    ],
    ids=["Ctrl-C", "SIGTERM to all", "SIGTERM to the driver"],
)
def test_a_signal_while_spark_works_ends_the_run_without_a_stack_trace(
    tmp_path: Path, send: Callable[[int, int], None], number: int, code: int
) -> None:
    data, out, log = tmp_path / "data", tmp_path / "out", tmp_path / "log"
    (data / "input").mkdir(parents=True)
    codes = "[" + " ".join(["7"] * 16) + "]"
    buys = {"client_id": [1, 2], "timestamp": ["2022-06-01 00:00:00"] * 2, "sku": [1, 1]}
    pq.write_table(pa.table(buys), data / "product_buy.parquet")
    products = {"sku": [1], "category": [1], "price": [1], "name": [codes]}
    pq.write_table(pa.table(products), data / "product_properties.parquet")
    np.save(data / "input" / "relevant_clients.npy", np.array([1, 2]))
    command = [sys.executable, "-m", "jobs.cli", "run", "--data", str(data), "--out", str(out)]
    with started(command, log) as process:
        # the first files of the stage are there: its other tables are not
        wait_until(lambda: any(out.glob("tables/*/*.parquet")), process, log)
        send(process.pid, number)
        assert process.wait(timeout=300) == code, log.read_text()
    text = log.read_text()
    assert list(out.glob("logs/lock-*")) == []
    assert "; `ubp run` with the same flags goes on after the last finished stage" in text
    assert "Traceback" not in text
    assert "Error" not in text
