"""What the docs say is there: messages, commands, settings and files."""

import re
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from conf.encoders import SECTIONS, EncoderSettings
from conf.pipeline import PipelineConfig

ROOT = Path(__file__).parents[1]
CODE = "\n".join(
    path.read_text() for package in ("conf", "jobs", "ml", "schemas") for path in (ROOT / package).rglob("*.py")
)
TEXT = re.sub(r'"\n\s*f?"', "", CODE)
OTHERS = ("ModuleNotFoundError", "the same")
"""First words of what Python says."""
FOREIGN = ("CVE", "HOROVOD_CYCLE_TIME", "MLFLOW_TRACKING_URI")
"""Names in capitals that are of others' programs."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOTS = "jobs|ml|conf|schemas|tests|tools|resources|benchmarks|notebooks|docs"
VALUES = r"\.\.\.|'[^']*'|`\w+`\.`\w+`|\b(?:OUT|DIR|N|X|OUT/models)\b|\d+|\[|\]|s3://|local|config\.json|\btrain\b"
"""What stands in a message for the values of a case."""


def benchmark_commands() -> list[tuple[str, str]]:
    """Script and arguments of every benchmark that a page tells to run, in a line or in a block."""
    text = "\n".join(page.read_text() for page in PAGES)
    script = r"python (benchmarks/[\w/]+\.py)"
    in_blocks = re.findall(rf"^ {{4}}.*{script}(.*)$", text, re.MULTILINE)
    return sorted({*re.findall(rf"`{script}([^`]*)`", text), *in_blocks})


def flags_of(script: Path) -> dict[str, bool]:
    """Flag -> whether it must be given, by the text of the script and of the module that it takes its parser from."""
    text = script.read_text()
    parsers = re.findall(r"^from ([\w.]+) import .*\bbuild_parser\b", text, re.MULTILINE)
    texts = [text, *((ROOT / f"{parser.replace('.', '/')}.py").read_text() for parser in parsers)]
    calls = [call for each in texts for call in each.split("add_argument(")[1:]]
    found = [(re.match(r'\s*"(--[\w-]+)"', call), "required=True" in call) for call in calls]
    return {name[1]: is_required for name, is_required in found if name}


def is_there(name: str) -> bool:
    """Whether a dotted name is a module or a package of ours, or something in a module."""
    path, (parent, _, last) = ROOT / name.replace(".", "/"), name.rpartition(".")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    return path.parent.with_suffix(".py").exists() and hasattr(import_module(parent), last)


def test_a_name_inside_a_module_is_looked_up_there() -> None:
    assert is_there("conf.encoders.SECTIONS")
    assert not is_there("conf.encoders.no_such_name")


def anchors(page: Path) -> set[str]:
    """The names by which GitHub's links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def messages() -> list[str]:
    rows = re.findall(r"^\| (`+)(.+?)\1", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    return [message for _, message in rows if not message.startswith(OTHERS)]


def parts_of(message: str) -> list[str]:
    words = [part.strip(" ;:,.()/`=") for part in re.split(VALUES, message)]
    return [part for part in words if len(part) > 8]


@pytest.mark.parametrize("message", messages())
def test_every_message_in_troubleshooting_is_one_of_the_code(message: str) -> None:
    parts = parts_of(message)
    assert parts
    for part in parts:
        assert part in TEXT, part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(rf"`((?:{ROOTS})/[\w/]*(?:\.\w+)?)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for module in re.findall(r"(?<![\w.])((?:jobs|ml|conf|schemas)(?:\.[A-Za-z_]\w*)+)", text):
        assert is_there(module), module
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert f"\n{target}:" in makefile, target
    for constant in re.findall(r"`([A-Z]+_[A-Z_]+)`", text):
        assert constant in CODE or constant in FOREIGN, constant


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_a_page_and_a_heading(page: Path) -> None:
    for name, heading in re.findall(r"\]\((?!https?:)([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), name
        assert not heading or heading in anchors(target), f"{name}#{heading}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(("script", "arguments"), benchmark_commands())
def test_a_benchmarks_command_names_a_script_that_is_there_and_flags_that_it_knows(script: str, arguments: str) -> None:
    """By text alone, no script is started: values of flags, positional arguments, and whether the command prints the
    figures that stand beside it are not seen."""
    known = flags_of(ROOT / script)
    given = set(re.findall(r"(?<!\S)--[\w-]+", arguments))
    assert given <= set(known), "flags that the script does not have"
    assert {flag for flag, is_required in known.items() if is_required} <= given, "flags that must be given"


def test_the_pages_name_benchmarks() -> None:
    assert len(benchmark_commands()) > 5


def test_nobody_is_told_to_install_ubp_from_an_index() -> None:
    """Whoever registers the name there would be installed."""
    text = "\n".join([*(page.read_text() for page in PAGES), TEXT])
    assert re.findall(r"pip install '?ubp\b.*", text) == []


def test_the_page_of_models_names_all_sections_that_an_encoder_may_change() -> None:
    about, _ = (ROOT / "docs" / "models.md").read_text().split("### Merged streams")
    assert [name for name in SECTIONS if f"`{name}`" not in about] == []


def test_settings_that_the_pages_name_exist() -> None:
    kinds = {name: of.type for name, of in PipelineConfig.__dataclass_fields__.items() if is_dataclass(of.type)}
    text = "\n".join(page.read_text() for page in PAGES)
    settings = set(re.findall(rf"`(?:--set )?({'|'.join(kinds)})\.(\w+)", text))
    assert len(settings) > 50
    for section, name in settings:
        assert section == "spark" or name in kinds[section].__dataclass_fields__, f"{section}.{name}"
    of_encoders = set(re.findall(r"encoders\.\w+\.(\w+)", text))
    assert of_encoders
    assert of_encoders <= set(EncoderSettings.__dataclass_fields__)
