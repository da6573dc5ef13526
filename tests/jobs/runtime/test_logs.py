"""``--json-logs``: each line of the log is one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

from jobs.runtime.logs import printable


def test_every_line_is_json_also_that_of_an_error(tmp_path: Path) -> None:
    """In a process of its own: pytest has set up logging in this one."""
    command = [sys.executable, "-m", "jobs.cli", "run", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "no")]
    result = subprocess.run([*command, "--json-logs", "--verbose"], capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = [json.loads(text) for text in result.stderr.splitlines()]
    assert line["level"] == "ERROR"
    assert "expected a challenge directory" in line["message"]
    assert "Traceback" in line["trace"]
    assert line["time"].endswith("+00:00")


def test_a_process_that_logs_already_such_as_a_notebook_gets_json_too(tmp_path: Path) -> None:
    program = f"""
import logging, sys
from jobs.cli import main
logging.basicConfig(stream=sys.stdout)
raise SystemExit(main(["status", "--out", {str(tmp_path / "none")!r}, "--json-logs"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    (line,) = [json.loads(text) for text in result.stdout.splitlines()]
    assert "expected the output directory of a run" in line["message"]


def test_what_a_call_gives_as_extra_is_in_its_line() -> None:
    program = """
import logging, sys
from jobs.runtime.logs import JsonLines
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(JsonLines())
logging.basicConfig(handlers=[handler], level="INFO")
logging.info("%s: done", "split", extra={"stage": "split", "rows": 3, "seconds": 1.5})
"""
    line = json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
    assert (line["stage"], line["rows"], line["seconds"], line["message"]) == ("split", 3, 1.5, "split: done")


def test_a_name_of_a_file_commands_no_terminal_and_forges_no_line() -> None:
    name = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n12:00:00 all is well\x7f"
    program = f"""
from jobs.cli import main
raise SystemExit(main(["run", "--out", "/nowhere/out", "--data", {name!r}, "--verbose"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 2
    assert "\\x1b]0;owned\\x07" in result.stderr
    assert not {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} & set(result.stderr) - {"\n"}
    assert "\n  12:00:00 all is well\\x7f: expected a challenge directory" in result.stderr
    assert printable("a\tb\x00\n") == "a\tb\\x00\n"
