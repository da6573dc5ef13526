"""Every module imports, and the packaging names every package."""

import importlib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
PACKAGES = find_packages(str(ROOT), include=["schemas*", "conf*", "ml*", "jobs*"])
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("schemas", "conf", "ml", "jobs")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_setup_lists_every_package() -> None:
    text = (ROOT / "setup.py").read_text()
    for package in PACKAGES:
        assert f'"{package}"' in text, f"setup.py does not list {package}"
