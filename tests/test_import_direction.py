"""schemas <- conf <- ml <- jobs: a package imports only those before it, and ml never imports Spark."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["schemas", "conf", "ml", "jobs"]
MODULES = [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_packages_before_its_own(path: Path) -> None:
    own = ORDER.index(path.relative_to(ROOT).parts[0])
    assert imported_packages(path).isdisjoint([*ORDER[own + 1 :], "tests", "notebooks"])


@pytest.mark.parametrize("package", ["schemas", "conf", "ml"])
def test_only_jobs_imports_spark(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert "pyspark" not in imported_packages(path), path


def test_schemas_has_an_empty_init() -> None:
    assert (ROOT / "schemas" / "__init__.py").read_text() == ""
