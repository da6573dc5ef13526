"""What is written whole or not at all."""

from pathlib import Path

from ml.files.atomic import replace_text


def test_a_text_replaces_the_one_before_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for text in ("old", "new"):
        replace_text(path, text)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "new"
