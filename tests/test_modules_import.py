"""Every module imports, and the examples in its docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("schemas", "conf", "ml", "jobs")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
}


@pytest.mark.parametrize("name", sorted(PATHS))
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(name for name, path in PATHS.items() if ">>> " in path.read_text()))
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
