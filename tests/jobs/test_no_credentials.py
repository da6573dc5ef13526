"""Credentials of the environment and of Spark's configuration are in no log, message or file of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "hush-3f9a"
PROGRAM = """
import json, sys
from jobs.cli import main
print(*[main(["vocabulary", "--out", sys.argv[1], *flags]) for flags in json.loads(sys.argv[2])])
"""
TELLING = ["--verbose", "--json-logs"]


@pytest.mark.slow
@pytest.mark.parametrize("runs", [[[], TELLING], pytest.param([TELLING], marks=pytest.mark.faults)])
def test_no_credential_is_written_anywhere(tmp_path: Path, runs: list[list[str]]) -> None:
    """A stage that fails says the most: messages, stack traces, Spark's log, which goes where the first run has it."""
    environment = os.environ | {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AZURE_CLIENT_SECRET": SECRET,
        "DATABRICKS_TOKEN": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "PYSPARK_SUBMIT_ARGS": f"--conf spark.hadoop.fs.s3a.secret.key={SECRET} pyspark-shell",
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out"), json.dumps(runs)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.stdout.split()[-len(runs) :] == ["2"] * len(runs), result.stderr
    assert result.stderr.count("table 'windows': expected a Delta table") >= len(runs)
    assert "Traceback" in result.stderr
    assert SECRET not in result.stdout + result.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert runs == [TELLING] or any(path.name == "spark.log" and path.stat().st_size for path in written)
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
