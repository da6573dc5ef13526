import pickle

import numpy as np
import pytest

from jobs.storage.entry_rules import require_files, validate_entry
from schemas.errors import EntryError

IDS = np.array([10, 20, 30])
ROWS = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=np.float16)


def write(folder, ids=IDS, rows=ROWS):
    np.save(folder / "client_ids.npy", ids)
    np.save(folder / "embeddings.npy", rows)


def message(folder, expected_ids=IDS):
    with pytest.raises(EntryError) as error:
        validate_entry(folder, expected_ids)
    return str(error.value)


def test_a_valid_entry_gives_its_shape_in_whatever_order_its_rows_are(tmp_path):
    write(tmp_path, IDS[::-1])
    assert validate_entry(tmp_path, IDS) == (3, 2)


def test_every_broken_rule_is_named_at_once(tmp_path):
    write(tmp_path, np.array([10, 10, 99], dtype=np.int32), np.array([[np.nan, np.inf], [0, 1]], dtype=np.float32))
    assert message(tmp_path) == (
        f"entry {tmp_path}: client_ids.npy is int32, expected int64; embeddings.npy is float32, expected float16; "
        "2 relevant clients are missing (20, 30); 1 ids are not relevant clients (99); "
        "1 ids are there more than once (10); embeddings.npy holds 1 NaN in 1 rows (row 0); "
        "embeddings.npy holds 1 infinite numbers in 1 rows (row 0); embeddings.npy has 2 rows, client_ids.npy 3; "
        "make the entry anew"
    )


def test_at_most_three_examples_are_shown(tmp_path):
    write(tmp_path, np.arange(5), np.full((5, 1), np.inf, dtype=np.float16))
    found = message(tmp_path, np.array([0]))
    assert "4 ids are not relevant clients (1, 2, 3, ...)" in found
    assert "5 infinite numbers in 5 rows (row 0, 1, 2, ...)" in found


def test_numbers_that_are_not_finite_are_found_in_every_batch_of_rows(tmp_path):
    rows = np.zeros((10_000, 1), dtype=np.float16)
    rows[[1, 9_999]] = np.nan
    write(tmp_path, np.arange(10_000), rows)
    assert "2 NaN in 2 rows (row 1, 9999)" in message(tmp_path, np.arange(10_000))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.zeros(3, dtype=np.float16), "1 axes, expected 2"),
        (np.zeros((3, 2049), dtype=np.float16), "2049 wide, expected 1 to 2048"),
        (np.zeros((3, 0), dtype=np.float16), "0 wide"),
        (np.array([["a"]]), "embeddings.npy is <U1, expected float16"),
        (np.zeros((0, 2), dtype=np.float16), "embeddings.npy has 0 rows, client_ids.npy 3"),
    ],
)
def test_wrong_shapes_and_types_are_named(tmp_path, rows, expected):
    write(tmp_path, rows=rows)
    assert expected in message(tmp_path)


def test_ids_of_another_integer_type_are_still_compared(tmp_path):
    write(tmp_path, np.array([10, 20, 40], dtype=np.uint64))
    found = message(tmp_path)
    assert "client_ids.npy is uint64, expected int64" in found
    assert "1 relevant clients are missing (30)" in found


def test_ids_beyond_int64_are_none_of_the_others(tmp_path):
    write(tmp_path, np.array([10, 20, 2**64 - 30], dtype=np.uint64))
    assert "1 ids are beyond int64 (18446744073709551586); 1 relevant clients are missing (30)" in message(tmp_path)
    write(tmp_path, np.array([10, 20, 2**63 + 30], dtype=np.uint64))
    assert "1 ids are beyond int64 (9223372036854775838)" in message(tmp_path), "an id that int64 would wrap"


def test_a_file_that_is_no_array_of_numbers_is_refused_unread(tmp_path):
    write(tmp_path)
    (tmp_path / "embeddings.npy").write_bytes(pickle.dumps([1, 2]))
    assert "embeddings.npy is not a whole .npy array of numbers (found a file that numpy cannot" in message(tmp_path)


def test_missing_files_and_folders_are_named(tmp_path):
    assert "client_ids.npy is missing; embeddings.npy is missing" in message(tmp_path)
    assert "expected a folder with client_ids.npy and embeddings.npy, found nothing" in message(tmp_path / "none")


def test_the_files_of_an_entry_must_be_there_whatever_they_hold(tmp_path):
    (tmp_path / "client_ids.npy").touch()
    with pytest.raises(
        EntryError, match=r"--entry: expected client_ids.npy and embeddings.npy in .*, found no embeddings.npy"
    ):
        require_files(tmp_path, "--entry")
    (tmp_path / "embeddings.npy").touch()
    require_files(tmp_path, "--entry")
