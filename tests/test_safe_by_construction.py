"""No code of ours reads a pickle, builds objects from YAML, runs text as code, or renders data as markup."""

import ast
from pathlib import Path

import pytest

from jobs.reporting.page import _environment

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("conf", "jobs", "ml", "schemas") for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""Nothing is imported from these."""
CALLS = {
    "torch.load", "torch.jit.load", "pandas.read_pickle", "eval", "exec", "os.system", "os.popen",
    "subprocess.getoutput", "subprocess.getstatusoutput",
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")),
    # these unpickle what whoever reaches a port puts there: CVE-2024-10190, CVE-2026-31234
    "horovod.run", "horovod.spark.run_elastic", "horovod.torch.elastic.run",
}  # fmt: skip


def names_of(tree: ast.AST) -> dict[str, str]:
    """What the imports of a module, wherever they stand, call by which name."""
    names = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
            names |= {each.name: each.name for each in node.names if not each.asname}
        if isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module or ''}.{each.name}" for each in node.names}
    return names


def problems_of(text: str) -> list[str]:
    tree = ast.parse(text)
    names = names_of(tree)
    found = [name for name in names.values() if MODULES & {*name.split(".")}]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, dot, rest = ast.unparse(call.func).partition(".")
        name = names.get(first, first) + dot + rest
        keywords = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if name in CALLS:
            found.append(name)
        if keywords.get("allow_pickle", "True" if name == "numpy.load" else "False") != "False":
            found.append(f"{name} without allow_pickle=False")
        if "shell" in keywords:
            found.append(f"{name} through a shell")
        if name.endswith((".sql", ".expr")) and call.args and isinstance(call.args[0], ast.BinOp):
            found.append(f"{name} of pasted text")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_what_can_run_code(path: Path) -> None:
    assert problems_of(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["np.load(path)", "np.load(path, allow_pickle=True)", "torch.load(path)", "yaml.load(text)",
     "subprocess.run(text, shell=True)", "horovod.spark.run_elastic(work)", "spark.sql('DROP ' + name)",
     "import pickle", "import pickle as p", "from pickle import loads as read", "from pyspark import cloudpickle",
     "import marshal", "import shelve", "import joblib", "def f():\n    import pickle",
     "numpy.load(path, allow_pickle=True)", "import numpy as n\nn.load(path)", "from numpy import load\nload(path)",
     "np.lib.format.read_array(file, allow_pickle=True)", "from yaml import load\nload(text)",
     "from yaml import unsafe_load as read\nread(text)", "import torch as t\nt.load(path)", "torch.jit.load(path)",
     "from os import popen\npopen(text)", "os.popen(text)", "import pandas as pd\npd.read_pickle(p)",
     "import horovod.torch as hvd\nhvd.elastic.run(work)"],
)  # fmt: skip
def test_the_rule_sees_what_it_forbids(text: str) -> None:
    assert len(problems_of(text)) == 1


def test_data_in_the_report_is_no_markup() -> None:
    page = _environment().from_string("{{ name }}").render(name="<script>x</script>")
    assert "<script>" not in page
