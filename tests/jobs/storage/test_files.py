"""Plain files of ``--out`` are written, and removed, by ``jobs/storage`` and ``ml/files`` alone."""

import ast
from pathlib import Path

import pytest

from jobs.storage.files import append_line, digest_file, remove_folder, write_json

ROOT = Path(__file__).parents[3]
OTHERS = {
    "runtime": "logs, locks, temporary folders, and what ranks tell the driver",
    "synthetic": "what `ubp generate` writes is no run's --out",
    "commands/generate.py": "as above",
    "inputs/typed_files.py": "files of a table, which Delta commits",
    "profiles/export.py": "into the folder that an EntryWriter gives",
}
"""Who else writes files, and which."""
WRITES = {"write_text", "write_bytes", "unlink", "rmdir", "touch", "rmtree", "replace_text", "replace_folder"}


def writing_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            modes = [ast.unparse(each) for each in [*node.args, *(key.value for key in node.keywords)]]
            if name in WRITES:
                found.append(ast.unparse(node))
            if name == "open" and any(mode.strip("'") in ("w", "a", "wb", "ab", "r+", "a+") for mode in modes):
                found.append(ast.unparse(node))
    return found


MODULES = [
    path
    for path in sorted((ROOT / "jobs").rglob("*.py"))
    if not any(str(path.relative_to(ROOT / "jobs")).startswith(each) for each in [*OTHERS, "storage"])
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_writes_or_removes_files(path: Path) -> None:
    own = [call for call in writing_calls(path.read_text()) if not call.startswith("write_text(")]
    assert own == []


@pytest.mark.parametrize(
    "source", ["p.open('a')", "open(p, mode='w')", "shutil.rmtree(p)", "p.write_text('x')", "replace_text(p, 'x')"]
)
def test_calls_that_write_are_found(source: str) -> None:
    assert len(writing_calls(source)) == 1


def test_files_are_written_whole_appended_to_and_removed(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{"b": [1]}\n'
    for line in ("one", "two"):
        append_line(tmp_path / "lines", line)
    assert (tmp_path / "lines").read_text() == "one\ntwo\n"
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    remove_folder(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    remove_folder(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
