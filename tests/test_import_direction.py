"""Imports go one way: schemas <- conf <- ml <- jobs, inside ml and jobs from folder to folder, and never in a circle.

Imports inside functions count, and so do modules that are named to ``importlib``; only what a file does as a program
(``if __name__ == "__main__"``) does not, but for circles.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["schemas", "conf", "ml", "jobs"]
FOLDERS = {
    "ml": ["compat", "files", "data", "metrics", "models", "objectives", "training", "inference", "profiles",
           "evaluation", "bench"],
    "jobs": ["runtime", "storage", "inputs", "transforms", "blocks", "profiles", "evaluation", "reporting", "synthetic",
             "stages", "pipeline", "commands", "cli", "start"],
}  # fmt: skip
"""Each imports only from those before it."""
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def is_program(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def nodes_of(tree: ast.AST, with_program: bool = False) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if with_program or not is_program(node):
            yield node
            yield from nodes_of(node, with_program)


def imported_names(source: str, with_program: bool = False) -> set[str]:
    """Dotted names of modules, or of what is imported from them."""
    names: set[str] = set()
    for node in nodes_of(ast.parse(source), with_program):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            text = ast.unparse(node.args[0]).strip("f'\"")
            names.add(text.partition("{")[0].rstrip("."))
    return names


def imported_modules(name: str, with_program: bool = False) -> set[str]:
    """Our own modules that a module imports."""
    found = set()
    for imported in imported_names(PATHS[name].read_text(), with_program):
        while imported and imported not in PATHS:
            imported = imported.rpartition(".")[0]
        if imported and imported != name:
            found.add(imported)
    return found


def layer(name: str) -> tuple[int, int]:
    """Position of a module's package, and of its folder in it; larger ones may import smaller ones."""
    package, *rest = name.split(".")
    folders = FOLDERS.get(package, [])
    return PACKAGES.index(package), folders.index(rest[0]) if rest and folders else -1


@pytest.mark.parametrize("name", PATHS)
def test_a_module_imports_only_from_folders_before_its_own(name: str) -> None:
    later = {other for other in imported_modules(name) if layer(other) > layer(name)}
    assert not later
    assert not {
        each for each in imported_names(PATHS[name].read_text()) if each.split(".")[0] in ("tests", "notebooks")
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: imported_modules(name, with_program=True) for name in PATHS}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from jobs.cli import main", "jobs.cli.main"),
        ("import importlib\nimportlib.import_module(f'jobs.stages.{name}')", "jobs.stages"),
        ("if __name__ == '__main__':\n    pass\nelse:\n    import ml.bench", "ml.bench"),
    ],
)
def test_hidden_imports_count(source: str, found: str) -> None:
    assert (found in imported_names(source)) is not source.startswith("if __name__")


@pytest.mark.parametrize("package", ["schemas", "conf", "ml"])
def test_only_jobs_imports_spark(package: str) -> None:
    for name, path in PATHS.items():
        if name.split(".")[0] == package:
            assert not any(each.split(".")[0] == "pyspark" for each in imported_names(path.read_text())), path


@pytest.mark.parametrize("package", ["ml", "jobs"])
def test_each_folder_has_its_position_and_says_what_belongs_there(package: str) -> None:
    folders = [path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()]
    assert set(folders) <= set(FOLDERS[package])
    for folder in folders:
        assert ast.get_docstring(ast.parse((ROOT / package / folder / "__init__.py").read_text())), folder


def test_schemas_has_an_empty_init() -> None:
    assert (ROOT / "schemas" / "__init__.py").read_text() == ""
