"""Credentials of the environment and of Spark's configuration are in no log, message or file of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "hush-3f9a"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--verbose", "--json-logs"]])
def test_no_credential_is_written_anywhere(tmp_path: Path, flags: list[str]) -> None:
    """A stage that fails says the most: messages, stack traces, Spark's log."""
    environment = os.environ | {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AZURE_CLIENT_SECRET": SECRET,
        "DATABRICKS_TOKEN": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "PYSPARK_SUBMIT_ARGS": f"--conf spark.hadoop.fs.s3a.secret.key={SECRET} pyspark-shell",
    }
    command = [sys.executable, "-m", "jobs.cli", "vocabulary", "--out", str(tmp_path / "out"), *flags]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "table 'windows': expected a Delta table" in result.stderr
    assert SECRET not in result.stdout + result.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert flags or any(path.name == "spark.log" and path.stat().st_size for path in written)
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
