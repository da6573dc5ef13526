"""What counts as small data, for which a JVM of our own is started otherwise."""

from pathlib import Path

import pytest

from conf.load import load_config
from jobs.inputs import data_files
from jobs.inputs.data_files import is_small
from jobs.storage.workspace import Workspace


def test_data_is_small_by_the_bytes_of_its_sources_or_else_of_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "SMALL_BYTES", 1000)
    monkeypatch.setattr(data_files, "SMALL_TO_FACTORISE", 100)
    config, out, data = load_config("report"), tmp_path / "out", tmp_path / "data"
    factorising = load_config("report", ["ensemble.blocks=[baseline,als_url]"])
    data.mkdir()
    (out / "tables" / "clients").mkdir(parents=True)
    assert not is_small(Workspace(out), config)  # nothing is known: it may be in a catalog
    for folder, workspace in ((out / "tables" / "clients", Workspace(out)), (data, Workspace(out, data))):
        assert not is_small(workspace, config)
        (folder / "product_buy.parquet").write_bytes(bytes(100))
        assert is_small(workspace, factorising)
        (folder / "product_buy.parquet").write_bytes(bytes(1000))
        assert is_small(workspace, config)
        assert not is_small(workspace, factorising)
        (folder / "page_visit.parquet").write_bytes(bytes(1))
        assert not is_small(workspace, config)
