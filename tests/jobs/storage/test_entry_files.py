import numpy as np
import pytest

from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.entry_files import (
    EntryWriter,
    stored,
    stream_vectors,
    write_entry,
)
from jobs.storage.entry_rules import validate_entry
from jobs.storage.locations import local_path
from jobs.storage.workspace import Workspace
from schemas.errors import EntryError, OutputError
from schemas.tables import EMBEDDINGS

VECTORS = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=np.float32)
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


@pytest.mark.parametrize(
    ("positions", "message"), [([0], "more than once"), ([1, 1], "more than once"), ([3], "below 3"), ([-1], "below 3")]
)
def test_a_position_out_of_range_or_twice_is_an_entry_error(tmp_path, positions, message):
    writer = EntryWriter(tmp_path / "e", 3, 2)
    writer.write(np.array([0]), IDS[:1], VECTORS[:1])
    with pytest.raises(EntryError, match=message):
        writer.write(np.array(positions), np.array(positions), np.zeros((len(positions), 2), dtype=np.float32))
    writer.discard()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_an_entry_with_numbers_beyond_float16_is_divided_by_a_power_of_two(tmp_path, order):
    rows = np.array([[65_504.0, 0.125], [-1e6, 3.0]], dtype=np.float32)
    with EntryWriter(tmp_path / "e", 2, 2) as writer:
        for position in order:
            writer.write(np.array([position]), IDS[[position]], rows[[position]])
    written = np.load(tmp_path / "e/embeddings.npy")
    assert written.tolist() == (rows / 16).astype(np.float16).tolist()
    assert np.isfinite(written).all()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_an_entry_error(tmp_path, number):
    writer = EntryWriter(tmp_path / "e", 1, 1)
    with pytest.raises(EntryError, match="finite numbers"):
        writer.write(np.array([0]), IDS[:1], np.array([[number]], dtype=np.float32))
    writer.discard()


def test_a_profile_wider_than_the_challenge_allows_is_an_entry_error(tmp_path):
    with pytest.raises(EntryError, match="2049"):
        EntryWriter(tmp_path / "e", 1, 2049)


def test_vectors_stream_from_the_newest_snapshot_alone(spark, tmp_path):
    workspace = Workspace(tmp_path / "an out%20 folder")
    workspace.prepare()
    for shift in (100.0, 0.0):
        rows = [(i, int(IDS[i]), [float(x) + shift for x in VECTORS[i]], []) for i in range(3)]
        write_table(spark.createDataFrame(rows, EMBEDDINGS.ddl), workspace, EMBEDDINGS)
    snapshot = read_table(spark, workspace, EMBEDDINGS)
    batches = list(stream_vectors(snapshot, "embedding", batch_rows=1))
    assert len(batches) == 3
    assert batches[0][2].dtype == np.float32
    write_entry(snapshot, "embedding", workspace.entry("e"), (3, 2), {"about.txt": "note"})
    validate_entry(workspace.entry("e"), IDS)
    assert np.load(workspace.entry("e") / "embeddings.npy").tolist() == VECTORS.tolist()
    assert (workspace.entry("e") / "about.txt").read_text() == "note"


def test_vectors_of_different_widths_are_an_entry_error(spark, tmp_path):
    rows = [(0, 10, [1.0]), (1, 20, [1.0, 2.0, 3.0])]
    frame = spark.createDataFrame(rows, "position bigint, client_id bigint, v array<float>").coalesce(1)
    with stored(frame, tmp_path / "rows") as snapshot, pytest.raises(EntryError, match="found 1 to 3"):
        list(stream_vectors(snapshot, "v"))
    assert not (tmp_path / "rows").exists()


def test_a_file_that_is_not_on_a_mounted_file_system_is_an_output_error():
    assert local_path("file:///a/b%20c.parquet") == "/a/b c.parquet"
    with pytest.raises(OutputError, match="mount"):
        local_path("s3://bucket/a.parquet")
