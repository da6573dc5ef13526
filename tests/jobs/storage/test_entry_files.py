import errno
import os

import numpy as np
import pytest

from jobs.storage.entry_files import EntryWriter
from jobs.storage.entry_rules import validate_entry
from schemas.errors import EntryError

VECTORS = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=np.float16)
IDS = np.array([10, 20, 30])


def write_in_two(writer):
    writer.write(np.array([2, 0]), IDS[[2, 0]], VECTORS[[2, 0]])
    writer.write(np.array([1]), IDS[[1]], VECTORS[[1]])


def files_of(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def test_an_entry_holds_each_row_at_its_position(tmp_path):
    with EntryWriter(tmp_path / "e", 3, 2) as writer:
        write_in_two(writer)
    ids, rows = np.load(tmp_path / "e/client_ids.npy"), np.load(tmp_path / "e/embeddings.npy")
    assert (ids.dtype, rows.dtype) == (np.int64, np.float16)
    assert ids.tolist() == IDS.tolist()
    assert rows.tolist() == VECTORS.tolist()
    assert files_of(tmp_path / "e") == ["e"]


def test_a_writer_that_fails_leaves_the_former_entry_as_it_was(tmp_path):
    with EntryWriter(tmp_path / "e", 3, 2) as writer:
        write_in_two(writer)
    with pytest.raises(EntryError), EntryWriter(tmp_path / "e", 3, 2) as writer:
        writer.write(np.array([7]), IDS[:1], VECTORS[:1])
    validate_entry(tmp_path / "e", IDS)
    assert files_of(tmp_path / "e") == ["e"]


def test_an_entry_with_an_empty_row_is_not_committed(tmp_path):
    expected = pytest.raises(EntryError, match="found none for 1, the first at position 1")
    with expected, EntryWriter(tmp_path / "e", 3, 2) as writer:
        writer.write(np.array([0, 2]), IDS[[0, 2]], VECTORS[[0, 2]])
    assert list(tmp_path.iterdir()) == []


def test_the_room_for_an_entry_is_taken_before_its_first_row(tmp_path, monkeypatch):
    with pytest.raises(EntryError), EntryWriter(tmp_path / "e", 1000, 64) as writer:  # its rows are not written
        assert all(512 * file.stat().st_blocks >= file.stat().st_size for file in writer.staging.iterdir())

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space left"):
        EntryWriter(tmp_path / "e", 1000, 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("positions", "message"), [([0], "more than once"), ([1, 1], "more than once"), ([3], "below 3"), ([-1], "below 3")]
)
def test_a_position_out_of_range_or_twice_is_an_entry_error(tmp_path, positions, message):
    writer = EntryWriter(tmp_path / "e", 3, 2)
    writer.write(np.array([0]), IDS[:1], VECTORS[:1])
    with pytest.raises(EntryError, match=message):
        writer.write(np.array(positions), np.array(positions), np.zeros((len(positions), 2), dtype=np.float16))


def test_a_profile_wider_than_the_challenge_allows_is_an_entry_error(tmp_path):
    with pytest.raises(EntryError, match="2049"):
        EntryWriter(tmp_path / "e", 1, 2049)
