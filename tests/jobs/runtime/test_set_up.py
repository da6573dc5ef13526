"""What the set-up keeps beside the installation."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime import set_up
from schemas.errors import PipelineError


@pytest.mark.parametrize("is_ours", [True, False])
def test_jars_are_kept_if_their_checksums_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    def fetch(command: list[object], **_: object) -> "subprocess.CompletedProcess[str]":
        (place,) = (Path(str(part).partition("=")[2]) for part in command if str(part).startswith("spark.jars.ivy="))
        (place / "jars").mkdir()
        (place / "jars" / "delta.jar").write_text("ours" if is_ours else "others")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(set_up, "find_java_home", lambda: Path("/java"))
    monkeypatch.setattr(subprocess, "run", fetch)
    fetched = "a:package:1", set_up.jars_folder(), {"delta.jar": hashlib.sha256(b"ours").hexdigest()}
    if is_ours:
        set_up.keep_jars(*fetched)
        assert [jar.name for jar in set_up.jars_folder().iterdir()] == ["delta.jar"]
        return
    with pytest.raises(PipelineError, match=r"delta\.jar.*found .*delta\.jar.*; they are not kept"):
        set_up.keep_jars(*fetched)
    assert list(set_up.jars_folder().parent.iterdir()) == []
