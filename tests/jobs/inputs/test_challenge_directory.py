"""The lists of ids that come with a challenge directory."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load_config
from jobs.inputs.challenge_directory import check_challenge, read_id_array, read_popularity
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([1.5]), "float64"),
        (np.array([[1]]), r"shape \[1, 1\]"),
        (np.array([], dtype=np.int64), r"shape \[0\]"),
        (np.array([4, 5, 4]), "1 repeated"),
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (np.array(5), r"shape \[\]"),
        (np.array([1, 2**63], dtype=np.uint64), "9223372036854775808, which is beyond int64"),
    ],
)
def test_an_id_file_that_is_no_list_of_distinct_integers_is_an_input_error(tmp_path, array, found):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=found):
        read_id_array(tmp_path / "ids.npy")


def archive(path):
    with path.open("wb") as file:
        np.savez(file, np.arange(3))


def cut_archive(path):
    archive(path)
    path.write_bytes(path.read_bytes()[:50])


def damaged_header(path):
    np.save(path, np.arange(3))
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"(((" + content[23:])


def promise(*shape):
    def write(path):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
            np.arange(3).tofile(file)

    return write


def two_arrays(path):
    with path.open("wb") as file:
        np.save(file, np.arange(3))
        np.save(file, np.arange(3))


def link_to_nothing(path):
    path.symlink_to(path.with_name("none"))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (archive, "an archive of arrays"),
        (cut_archive, "an archive of arrays"),
        (damaged_header, ""),
        (promise(10**12), r"24 bytes behind a header that promises int64 of shape \[1000000000000\]"),
        (promise(-1, -3), r"24 bytes behind a header that promises int64 of shape \[-1, -3\]"),
        (two_arrays, "176 bytes behind a header"),
        (os.mkfifo, "no regular file"),
        (Path.mkdir, "a folder"),
        (link_to_nothing, "No such file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x03\x00"), "records"),
        (Path.touch, "magic string"),
    ],
)
def test_what_is_no_whole_npy_array_is_an_input_error_with_its_name(tmp_path, make, found):
    make(tmp_path / "ids.npy")
    for read in (read_id_array, lambda path: read_popularity(path, 3)):
        with pytest.raises(InputError, match=rf"ids\.npy: expected a \.npy array, found .*{found}"):
            read(tmp_path / "ids.npy")


def test_ids_are_int64_in_the_order_of_the_file_and_none_without_one(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype=np.uint16))
    ids = read_id_array(tmp_path / "ids.npy")
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, 1, 2]
    assert read_id_array(tmp_path / "none.npy") is None
    assert read_popularity(tmp_path / "none.npy", 3) is None


@pytest.mark.parametrize("values", [[0.1], [0.1, np.nan], [0.1, -1], ["0", "1"]])
def test_popularity_that_cannot_weigh_labels_is_an_input_error(tmp_path, values):
    np.save(tmp_path / "p.npy", np.array(values))
    with pytest.raises(InputError, match="expected 2 finite numbers"):
        read_popularity(tmp_path / "p.npy", 2)


def test_merged_behaviours_without_an_event_are_refused_by_the_name_of_their_encoder(tmp_path):
    columns = {"client_id": [1], "timestamp": ["2022-06-01 12:00:00"]}
    pq.write_table(pa.table({**columns, "sku": [7]}), tmp_path / "product_buy.parquet")
    products = {"sku": [7], "category": [1], "price": [2], "name": ["[1]"]}
    pq.write_table(pa.table(products), tmp_path / "product_properties.parquet")
    config = load_config("default", ["encoders.mixed={behaviours: [page_visit, search_query]}"])
    with pytest.raises(
        InputError, match=r"encoders\.mixed: expected events of one of page_visit, search_query, found no"
    ):
        check_challenge(tmp_path, config)
    pq.write_table(pa.table({**columns, "url": [7]}).slice(0, 0), tmp_path / "page_visit.parquet")
    with pytest.raises(InputError, match=r"encoders\.mixed: expected events"):
        check_challenge(tmp_path, config)
    pq.write_table(pa.table({**columns, "url": [7]}).drop(["timestamp"]), tmp_path / "page_visit.parquet")
    with pytest.raises(InputError, match=r"page_visit\.parquet.*'timestamp'"):
        check_challenge(tmp_path, config)
    pq.write_table(pa.table({**columns, "url": [7]}), tmp_path / "page_visit.parquet")
    check_challenge(tmp_path, config)
