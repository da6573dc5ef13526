"""What the docs say is there: messages, commands, settings and files."""

import re
from pathlib import Path

import pytest

from conf.pipeline import PipelineConfig

ROOT = Path(__file__).parents[1]
CODE = "\n".join(
    path.read_text() for package in ("conf", "jobs", "ml", "schemas") for path in (ROOT / package).rglob("*.py")
)
TEXT = re.sub(r'"\n\s*f?"', "", CODE)
OTHERS = ("ModuleNotFoundError", "the same")
"""First words of what Python says."""
VALUES = r"\.\.\.|'[^']*'|`\w+`\.`\w+`|\b(?:OUT|DIR|N|X|OUT/models)\b|\d+|\[|\]|s3://|local|config\.json|\btrain\b"
"""What stands in a message for the values of a case."""


def benchmark_commands() -> list[tuple[str, str]]:
    """Script and arguments of every benchmark that a page tells to run, in a line or in a block."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(path.read_text() for path in pages)
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


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_files_and_make_targets_that_a_page_names_are_there(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    for path in re.findall(r"`((?:jobs|ml|conf|schemas|tests|tools|resources)/[\w/]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\((\w+\.md|\w+)\)", text):
        assert (ROOT / "docs" / (link if link.endswith(".md") else f"{link}.md")).exists(), link


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


def test_settings_that_the_pages_name_exist() -> None:
    sections = set(PipelineConfig.__dataclass_fields__) - {"behaviours", "seed"}
    text = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    settings = set(re.findall(rf"`(?:--set )?({'|'.join(sections)})\.(\w+)", text))
    assert settings
    for section, name in settings - {("spark", "python"), ("spark", "network"), ("spark", "authenticate")}:
        fields = PipelineConfig.__dataclass_fields__[section].type.__dataclass_fields__
        assert section == "spark" or name in fields, f"{section}.{name}"
