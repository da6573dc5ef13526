"""What is written whole or not at all."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml.files.atomic import replace_text
from ml.files.notes import FolderNotes
from ml.files.store import Store, patience
from schemas.errors import OutputError


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Files cannot grow larger, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_text_replaces_the_one_before_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for text in ("old", "new"):
        replace_text(path, text)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "new"


def test_a_note_that_cannot_be_filled_is_not_there_and_holds_nobody_up(tmp_path: Path) -> None:
    with room_for(0):
        with pytest.raises(OSError, match="too large"):
            FolderNotes(tmp_path).create("lock.turn", "text")
        with pytest.raises(OutputError), patience(0):
            Store(str(tmp_path)).create("lock.turn", b"text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_mount_stays_whole_where_there_is_no_room_for_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "scores.json").write_text("new" * 50)
    store = Store(str(tmp_path / "mount"))
    store.write("scores.json", b"former")
    with room_for(20), patience(0):
        with pytest.raises(OutputError, match="too large"):
            store.write("scores.json", b"new" * 50)
        with pytest.raises(OutputError, match="too large"):
            store.put(["scores.json"], tmp_path / "here")
    assert [path.name for path in (tmp_path / "mount").iterdir()] == ["scores.json"]
    assert store.read("scores.json") == b"former"
