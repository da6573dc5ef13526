"""The notebooks run from top to bottom and are committed without outputs.

They use no magic, so that a notebook is its code cells in one namespace: no kernel has to be installed.
"""

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from pyspark.sql import SparkSession

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PACKAGES = {"schemas", "conf", "ml", "jobs", "matplotlib", "numpy", "pandas", "pathlib", "tempfile", "dataclasses"}

WHOLE_RUN = "3_compare_entries"
"""Takes minutes, all stages and an ablation: `make faults` runs it."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def no_window() -> Iterator[None]:
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    matplotlib.pyplot.close("all")
    matplotlib.use(before)


def test_there_are_three_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.faults] * (path.stem == WHOLE_RUN), id=path.stem) for path in NOTEBOOKS],
)
def test_a_notebook_runs_from_top_to_bottom(path: Path, spark: SparkSession, no_window: None):
    namespace: dict = {}
    for number, source in enumerate(code_cells(path)):
        exec(compile(source, f"{path.name}, code cell {number}", "exec"), namespace)
    namespace["home"].cleanup()


@each_notebook
def test_a_notebook_is_committed_without_outputs(path: Path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@each_notebook
def test_a_notebook_defines_nothing_and_imports_the_packages_and_plots_only(path: Path):
    nodes = [node for source in code_cells(path) for node in ast.walk(ast.parse(source))]
    logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try)
    assert not [node for node in nodes if isinstance(node, logic)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    taken = [
        (node.module or "", name.name) for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    assert {name.split(".")[0] for name in (*names, *(module for module, _ in taken))} <= PACKAGES
    for module, name in taken:  # of a package, a name may be a module that nobody imported yet
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")


@each_notebook
def test_a_notebook_explains_itself_first(path: Path):
    first, *others = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert first["cell_type"] == "markdown"
    assert first["source"][0].startswith("# ")
    assert sum(cell["cell_type"] == "markdown" for cell in others) >= 4
