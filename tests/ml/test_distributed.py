"""What is kept from Horovod: settings that it would read as nothing."""

import os

import pytest

from ml.distributed import _drop_unreadable_settings


@pytest.mark.parametrize(("text", "kept"), [("(None,)", False), ("5", True), ("0.5", True), ("", False)])
def test_settings_that_are_no_numbers_are_dropped_before_horovod_reads_them(
    monkeypatch: pytest.MonkeyPatch, text: str, kept: bool
) -> None:
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", text)
    monkeypatch.delenv("HOROVOD_CACHE_CAPACITY", raising=False)
    _drop_unreadable_settings()
    assert os.environ.get("HOROVOD_CYCLE_TIME") == (text if kept else None)
    assert "HOROVOD_CACHE_CAPACITY" not in os.environ
