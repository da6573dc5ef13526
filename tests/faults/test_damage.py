"""Disks, damaged files and settings that do not fit: told in words, exit code 2, and nothing overwritten."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_runs import Shop, assert_same_outcome, contents, finished_stages, started, tell

from jobs.cli import main
from jobs.runtime.user_errors import explain
from jobs.storage.entry_files import EntryWriter
from schemas.errors import OutputError

pytestmark = pytest.mark.faults


Refuse = Callable[..., str]


@pytest.fixture
def refuse(shop: Shop, caplog: pytest.LogCaptureFixture) -> Refuse:
    """Makes a call that must be refused, in this process, and gives what it says; nothing but logs may change."""

    def call(out: Path, *arguments: str) -> str:
        before = contents(out)
        assert main(shop.arguments(out, *arguments)) == 2, caplog.text
        after = contents(out)  # a write that failed may leave files that no table's log names
        assert {name: after.get(name) for name in before} == before
        return caplog.records[-1].getMessage()

    return call


def folder_mib(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_full_disk_is_told_and_with_more_room_the_run_ends_as_if_nothing_had_happened(
    shop: Shop, undisturbed: Path, mounted: Callable[[str], Path], share: float
) -> None:
    place = mounted(f"size={int(1024 * folder_mib(undisturbed) * share)}k")
    out = place / "out"
    done = shop.run(out)
    tell(f"full after {finished_stages(out)}: {done.stderr.strip().splitlines()[-1][:400]}")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "OutputError: expected room" in done.stderr
    assert "report" not in finished_stages(out)
    subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
    shop.finish(out)
    assert_same_outcome(out, undisturbed)


def test_a_disk_that_an_entry_does_not_fit_on_is_told_and_left_as_it_was(mounted: Callable[[str], Path]) -> None:
    place = mounted("size=4m")
    with pytest.raises(OSError, match="No space left on device") as told:
        EntryWriter(place / "ensemble", 100_000, 64)  # 13 MB
    assert isinstance(explain(told.value), OutputError)
    assert list(place.iterdir()) == []


def test_a_read_only_output_is_refused_before_anything_starts(
    refuse: Refuse, undisturbed: Path, mounted: Callable[[str], Path]
) -> None:
    place = mounted("size=200m")
    out = Path(shutil.copytree(undisturbed, place / "out"))
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    assert "OutputError" in refuse(out, "run", "--restart")


@pytest.mark.parametrize(
    ("table", "stage"), [("sequences", "embed"), ("page_visit", "sequences"), ("sequences", "train")]
)
def test_a_damaged_file_of_a_table_is_told(refuse: Refuse, finished: Path, table: str, stage: str) -> None:
    files = [file for file in (finished / "tables" / table).rglob("part-*.parquet") if "width=1/" not in str(file)]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    told = refuse(finished, stage)
    tell(f"{table}, {stage}: {told[:400]}")
    assert "TableError: expected a whole Parquet file" in told
    assert any(file.name in told for file in files)


def test_a_truncated_weights_file_is_named(refuse: Refuse, finished: Path) -> None:
    weights = finished / "models" / "page_visit" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights} is missing, damaged" in refuse(finished, "embed")


def test_a_model_of_another_vocabulary_is_refused(refuse: Refuse, finished: Path) -> None:
    card = finished / "models" / "page_visit" / "config.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"vocabulary_fingerprint": "another"}))
    assert "the model belongs to another vocabulary" in refuse(finished, "embed")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (["embed", "--set", "model.hidden_size=32"], "train had encoders.product_buy.hidden_size=16 (now 32)"),
        (["run", "--from", "embed", "--set", "model.n_layers=2"], "train had encoders.product_buy.n_layers=1 (now 2)"),
        (["train", "--set", "encoders.page_visit.max_length=4"], "sequences had streams.page_visit."),
        (["embed", "--set", "behaviours.add_to_cart.item=sku"],
         "ingest had behaviours.add_to_cart.item=none"),
    ],
)  # fmt: skip
def test_settings_other_than_the_earlier_stages_are_refused(
    refuse: Refuse, finished: Path, call: list[str], told: str
) -> None:
    message = refuse(finished, *call)
    assert "OutdatedError" in message
    assert told in message


def test_of_two_runs_at_once_one_ends_well_and_the_other_is_told(shop: Shop, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    commands = [shop.command(out), shop.command(out)]
    with started(commands[0], tmp_path / "0") as one, started(commands[1], tmp_path / "1") as other:
        codes = [one.wait(), other.wait()]
    assert sorted(codes) == [0, 2]
    told = (tmp_path / str(codes.index(2))).read_text()
    assert f"process {[one, other][codes.index(0)].pid} on " in told
    assert_same_outcome(out, undisturbed)


def test_stages_that_share_nothing_run_at_once_and_lose_nothing_of_each_other(
    shop: Shop, undisturbed: Path, finished: Path, tmp_path: Path
) -> None:
    commands = [shop.command(finished, stage) for stage in ("train", "baseline")]
    with started(commands[0], tmp_path / "0") as one, started(commands[1], tmp_path / "1") as other:
        assert [one.wait(), other.wait()] == [0, 0], [(tmp_path / name).read_text()[-2000:] for name in "01"]
    assert "report" in finished_stages(finished), "each has the record that it is made"
    assert_same_outcome(finished, undisturbed)
