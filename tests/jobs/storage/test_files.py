"""Plain files of ``--out`` are written, and removed, by ``jobs/storage`` and ``ml/files`` alone."""

import ast
import re
from pathlib import Path

import pytest

from jobs.storage.files import append_line, digest_file, write_json

ROOT = Path(__file__).parents[3]
OTHERS = {
    "runtime": "logs, locks, temporary folders, and what ranks tell the driver",
    "synthetic": "what `ubp generate` writes is no run's --out",
    "commands/generate.py": "as above",
    "inputs/typed_files.py": "files of a table, which Delta commits",
    "profiles/export.py": "into the folder that an EntryWriter gives",
}
"""Who else writes files, and which."""
WRITES = {
    "write_text", "write_bytes", "unlink", "rmdir", "touch", "rename", "rmtree", "copytree", "copyfile", "copy2",
    "savez", "savez_compressed", "save_file", "replace_text", "replace_folder",
}  # fmt: skip
"""By the last part of a name."""
WHOLE = {
    "os.remove", "os.removedirs", "os.replace", "os.renames", "shutil.move", "shutil.copy", "np.save", "numpy.save",
    "torch.save", "pq.write_table", "json.dump", "yaml.dump", "yaml.safe_dump",
}  # fmt: skip
"""By a whole name, for methods of lists, tables and texts end like these."""
OPENS = {"open", "fdopen", "memmap", "open_memmap"}


def opens_to_write(call: ast.Call) -> bool:
    given = [*call.args, *(key.value for key in call.keywords)]
    modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return any(re.fullmatch(r"[rwaxbt+]{1,4}", mode) and set(mode) & set("wax+") for mode in modes)


def writing_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            whole = ast.unparse(node.func)
            name = whole.rpartition(".")[2]
            # of a path; a text's takes two, a time's names what it takes
            replaces = whole.endswith(".replace") and len(node.args) == 1 and not node.keywords
            if name in WRITES or whole in WHOLE or replaces or (name in OPENS and opens_to_write(node)):
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
    "source",
    ["p.open('a')", "open(p, mode='w')", "shutil.rmtree(p)", "p.write_text('x')", "replace_text(p, 'x')",
     "open(p, 'xb')", "p.open('w+')", "p.open('wt', encoding='utf-8')", "p.open(mode='rb+')", "os.remove(p)",
     "os.replace(p, q)", "p.rename(q)", "os.rename(p, q)", "p.replace(q)", "shutil.move(p, q)", "shutil.copy(p, q)",
     "shutil.copytree(p, q)", "np.save(p, values)", "np.memmap(p, mode='w+')", "pq.write_table(rows, p)",
     "json.dump(values, file)"],
)  # fmt: skip
def test_calls_that_write_are_found(source: str) -> None:
    assert len(writing_calls(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["p.open('rb')", "open(p)", "p.open(encoding='utf-8')", "text.replace('a', 'b')", "time.replace(hour=0)",
     "names.remove(name)", "values.copy()", "write_table(rows, workspace, TABLE)", "json.dumps(values)"],
)  # fmt: skip
def test_calls_that_write_nothing_are_not(source: str) -> None:
    assert writing_calls(source) == []


def test_files_are_written_whole_and_appended_to(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{"b": [1]}\n'
    for line in ("one", "two"):
        append_line(tmp_path / "lines", line)
    assert (tmp_path / "lines").read_text() == "one\ntwo\n"
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
