import sys

import pytest

from ml.compat import allocator


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked on Linux only")
def test_glibc_is_asked_for_all_three_settings(monkeypatch):
    asked = {}
    library = type("Glibc", (), {"mallopt": staticmethod(lambda option, value: asked.update({option: value}) or 1)})
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)

    assert allocator.keep_freed_memory()
    assert set(asked) == {allocator.M_MMAP_THRESHOLD, allocator.M_TRIM_THRESHOLD, allocator.M_TOP_PAD}


def test_a_library_without_the_settings_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())

    assert not allocator.keep_freed_memory()


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")

    assert not allocator.keep_freed_memory()
