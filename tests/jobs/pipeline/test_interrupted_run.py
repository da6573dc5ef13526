"""Ctrl-C, which a terminal sends to the driver, its JVM and its Python workers alike, ends a run in one line."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_runs import started, wait_until


@pytest.mark.slow
def test_ctrl_c_while_spark_works_is_exit_code_130_and_no_stack_trace(tmp_path: Path) -> None:
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
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=300) == 130, log.read_text()
    text = log.read_text()
    assert "interrupted; `ubp run` with the same flags goes on after the last finished stage" in text
    assert "Traceback" not in text
    assert "Error" not in text
