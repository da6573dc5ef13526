"""What a store needs is named by the packages' own names."""

import sys
from pathlib import Path

import pytest

from ml.files.store import PACKAGES, Store
from schemas.errors import ConfigError

SETUP = (Path(__file__).parents[3] / "setup.py").read_text()


@pytest.mark.parametrize(("url", "package"), [("gs://bucket/run", "gcsfs"), ("abfss://box@account.x/run", "adlfs")])
def test_the_message_names_a_package_that_is_an_extra_of_ours(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(ConfigError, match=f"{url}: expected a package .*; install it: pip install {package}$"):
        _ = Store(url).system
    assert PACKAGES[url.partition(":")[0]] == package
    assert f'["{package}>=' in SETUP
