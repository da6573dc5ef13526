"""``--out`` in a store: what is copied when, what a reader finds of a half, and who may write; on a real S3 server."""

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from s3_server import BUCKET, S3Server
from whole_files import take_whole_files_only

from jobs.commands import calls
from jobs.runtime import locks
from jobs.runtime.locks import Holder, locked
from jobs.storage.entry_files import EntryWriter
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.provenance import Record, changed_records, read_records
from jobs.storage.working_copy import COMPLETE, METRICS, WorkingCopy, copy_folder
from jobs.storage.workspace import Workspace
from ml.files import store as stores
from ml.files.notes import StoreNotes
from ml.files.store import Store, patience
from schemas.errors import OutputError


@pytest.fixture(params=["s3", "mount"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of this test alone: a bucket's folder, or a mount that takes whole files only."""
    monkeypatch.setattr(stores, "MAX_WAIT_SECONDS", 0.1)
    if request.param == "mount":
        take_whole_files_only(tmp_path / "volume", monkeypatch)
        return Store(str(tmp_path / "volume" / "run"))
    request.getfixturevalue("server")
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


def run_on(store: Store, folder: Path) -> Workspace:
    """As a command on another machine begins: with what is there."""
    copy = WorkingCopy(store, folder)
    copy.start()
    workspace = Workspace(folder, working_copy=copy)
    workspace.prepare()
    return workspace


def save_model(workspace: Workspace, weights: str) -> None:
    folder = workspace.model("page_visit")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_text(weights)
    (folder / "config.json").write_text("{}")


def test_a_command_finds_what_another_has_made_and_copies_what_changed_alone(store: Store, tmp_path: Path) -> None:
    first = run_on(store, tmp_path / "a")
    save_model(first, "1")
    (first.out / "scores.json").write_text("{}")
    (first.out / ".draft.partial").write_text("half")
    (first.out / "tables").mkdir()
    (first.out / "tables" / "x").write_text("Spark's own")
    first.push()
    expected = {
        "scores.json",
        *(f"models/page_visit/{name}" for name in ("weights.safetensors", "config.json", COMPLETE)),
    }
    assert store.list_all().keys() == expected
    tags = store.list_all()
    first.push()
    (first.out / "scores.json").write_text('{"a": 1}')
    first.push()
    assert {name for name, file in store.list_all().items() if file != tags[name]} == {"scores.json"}

    second = run_on(store, tmp_path / "b")
    assert (second.out / "scores.json").read_text() == '{"a": 1}'
    assert not second.model("").exists(), "folders come when a stage opens them"
    asked = ("models/page_visit", "scores.json", "models/mixed", "report.html")
    assert [second.has_output(name) for name in asked] == [True, True, False, False]
    for name in ("weights.safetensors", COMPLETE):  # then it is not whole, though its folder is there
        kept = store.read(f"models/page_visit/{name}")
        store.remove([f"models/page_visit/{name}"])
        assert not second.has_output("models/page_visit")
        store.write(f"models/page_visit/{name}", kept)
    second.pull("models")
    assert (second.model("page_visit") / "weights.safetensors").read_text() == "1"
    assert second.remove(second.model("page_visit"))
    first.pull("models")
    assert [path for path in first.model("page_visit").rglob("*") if path.is_file()] == []
    assert store.list_all().keys() == {"scores.json"}


@pytest.mark.parametrize("fails_at", ["weights.safetensors", COMPLETE])
def test_a_model_whose_copying_did_not_end_is_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails_at: str
) -> None:
    first = run_on(store, tmp_path / "a")
    save_model(first, "1")
    first.push()
    save_model(first, "other")
    put, write = Store.put, Store.write

    def fail(self: Store, names: object, *rest: object) -> None:
        if fails_at in str(names):
            raise OutputError("the store is away")
        (write if isinstance(names, str) else put)(self, names, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as away:
        away.setattr(Store, "put", fail)
        away.setattr(Store, "write", fail)
        with pytest.raises(OutputError, match="away"):
            first.push()
    second = run_on(store, tmp_path / "b")
    second.pull("models")
    assert not second.model("page_visit").is_dir()
    assert "models/page_visit: left out: its last writer did not finish it" in caplog.text
    first.push()
    second.pull("models")
    assert (second.model("page_visit") / "weights.safetensors").read_text() == "other"


def test_lines_and_records_of_stages_on_two_machines_are_all_kept(store: Store, tmp_path: Path) -> None:
    runs = {name: run_on(store, tmp_path / name) for name in ("train", "counters")}
    for number in range(2):
        for name, run in runs.items():
            append_metrics(run.metrics, {"by": name, "number": number})
            with changed_records(run) as records:
                records[f"{name}-{number}"] = Record(name)
            run.push()
    last = run_on(store, tmp_path / "c")
    assert sorted((line["by"], line["number"]) for line in read_metrics(last.metrics)) == [
        (name, number) for name in ("counters", "train") for number in (0, 1)
    ]
    assert read_records(last).keys() == {f"{name}-{number}" for name in runs for number in (0, 1)}
    assert store.list_all("logs") == {}


def test_lines_of_metrics_are_there_once_after_a_turn_that_was_lost_and_a_write_that_failed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = (run_on(store, tmp_path / name) for name in ("slow", "other"))
    read, write = Store.read, Store.write

    def push_line(run: Workspace, number: int) -> None:
        append_metrics(run.metrics, {"number": number})
        run.push()

    def read_for_long(self: Store, name: str) -> bytes:
        content = read(self, name)
        if name == METRICS:
            monkeypatch.setattr(Store, "read", read)
            StoreNotes(store, "logs").remove("metrics.turn")  # as after ``TURN_SECONDS``
            push_line(other, 2)
        return content

    def fail(self: Store, name: str, content: bytes) -> None:
        if name == METRICS:
            monkeypatch.setattr(Store, "write", write)
            raise OutputError("away")
        write(self, name, content)

    push_line(other, 1)
    monkeypatch.setattr(Store, "read", read_for_long)
    push_line(slow, 3)
    push_line(other, 4)
    monkeypatch.setattr(Store, "write", fail)
    push_line(slow, 5)
    last = run_on(store, tmp_path / "last")
    assert [line["number"] for line in read_metrics(last.metrics)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_a_run_whose_lock_was_taken_over_copies_nothing_over_what_the_other_one_wrote(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException] | None
) -> None:
    old, new = run_on(store, tmp_path / "old"), run_on(store, tmp_path / "new")

    def work() -> None:
        with locked(old.notes, ["train"], "x", "o") as is_ours, calls._copied_back(old, is_ours):
            save_model(old, "old")
            for name in old.notes.names("lock-"):
                old.notes.remove(name)
            save_model(new, "new")
            new.push()
            if error:
                raise error

    with pytest.raises(error or OutputError):
        work()
    assert store.read("models/page_visit/weights.safetensors") == b"new"
    assert "expected this run's lock there, found that it was removed" in caplog.text or not error


def test_a_draft_that_another_process_is_about_to_rename_is_left_alone(store: Store, tmp_path: Path) -> None:
    store.write(".provenance.json.0123abcd.partial", b"of another")
    run = run_on(store, tmp_path / "a")
    run.push()
    assert store.list_all().keys() == {".provenance.json.0123abcd.partial"}


def test_an_executor_of_another_user_on_the_drivers_host_has_a_copy_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError

    with monkeypatch.context() as other_user:
        other_user.setattr(Path, "exists", refuse)
        assert not WorkingCopy(Store(str(tmp_path / "store")), tmp_path / "out").is_here


def test_another_run_is_kept_out_until_its_lease_ends(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StoreNotes, "poll_seconds", 0.01)
    notes = StoreNotes(store, "logs")
    lost = replace(Holder.this("ubp run", ["train"]), machine="another", host="worker-7")
    notes.write("lock-1.json", json.dumps(asdict(lost)))
    told = rf"^expected no other run in {store.url}, found `ubp run` .*worker-7.* remove {store.url}/logs/lock-1.json$"
    with pytest.raises(OutputError, match=told), locked(notes, ["train"], "x", store.url):
        pass
    with locked(notes, ["probe"], "x", store.url):
        assert len(notes.names("lock-")) == 2
    monkeypatch.setattr(locks, "LEASE_SECONDS", -5.0)
    with locked(notes, ["train"], "x", store.url):
        (mine,) = notes.names("lock-")
        assert json.loads(notes.read(mine))["names"] == ["train"]
    assert "the lock of `ubp run` on worker-7 is taken over" in caplog.text
    assert notes.names("") == []


def test_a_mount_that_takes_whole_files_only_gets_all_that_a_run_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = tmp_path / "volume"
    take_whole_files_only(volume, monkeypatch)
    with pytest.raises(OSError, match="refused"):  # as it was before there were working copies
        append_metrics(volume / "metrics.jsonl", {})
    with pytest.raises(OSError, match="refused"), EntryWriter(volume / "entries" / "e", 1, 1):
        pass
    run = run_on(Store(str(volume)), tmp_path / "here")
    with locked(run.notes, ["train"], "ubp train", run.shown):
        for _ in range(2):
            with changed_records(run) as records:
                records["train"] = Record("train")
            append_metrics(run.metrics, {"table": "x"})
            with EntryWriter(run.entry("ensemble"), 1, 2) as writer:
                writer.write(np.array([0]), np.array([7]), np.ones((1, 2), np.float16))
            save_model(run, "1")
            run.push()
    assert np.load(volume / "entries" / "ensemble" / "embeddings.npy").tolist() == [[1.0, 1.0]]
    assert len((volume / "metrics.jsonl").read_text().splitlines()) == 2
    assert list((volume / "logs").iterdir()) == []


def test_of_two_that_create_one_note_one_is_told(store: Store) -> None:
    store.create("logs/turn", b"first")
    with pytest.raises(FileExistsError):
        store.create("logs/turn", b"second")
    assert store.read("logs/turn") == b"first"


@pytest.mark.parametrize("name", ["models/../../x", "/x"])
def test_a_name_that_leads_out_of_the_copy_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="expected names of files below it"):
        Store("s3://shop/run").get([name], tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def away(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(stores, "MAX_WAIT_SECONDS", 0.1)
    monkeypatch.setitem(stores.OPTIONS["s3"], "config_kwargs", {"retries": {"max_attempts": 0}})
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


def test_a_store_that_is_away_for_a_while_is_waited_for(
    away: Store, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_on(away, tmp_path / "a")
    save_model(run, "1")
    server.refuses = 3
    run.push()
    assert server.refuses == 0
    assert "trying again" in caplog.text
    server.refuses = 2
    away.create("logs/turn", b"1")
    other = run_on(away, tmp_path / "b")
    other.pull("models")
    assert (other.model("page_visit") / "weights.safetensors").read_text() == "1"


def test_a_store_that_stays_away_is_told_with_what_to_do_and_no_secret(
    away: Store, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.refuses = 10**6
    try:
        with (
            pytest.raises(OutputError, match=r"^s3://.*expected a store that lets us write x, found: .*") as is_away,
            patience(0),
        ):
            away.write("x", b"1")
        assert server.refuses == 10**6 - 1, "who has no patience does not wait for tries of the client's own"
    finally:
        server.refuses = 0
    with pytest.raises(OutputError, match=r"found: .*bucket.*AWS_ENDPOINT_URL") as has_no_bucket:
        Store("s3://nowhere/x").write("x", b"1")
    logged = [record.getMessage() for record in caplog.records if record.name.startswith(("jobs", "ml"))]
    assert "secret-of-the-test" not in "".join([*logged, str(is_away.value), str(has_no_bucket.value)])


def test_a_task_on_another_host_fetches_what_it_opens(store: Store, tmp_path: Path) -> None:
    run = run_on(store, tmp_path / "driver")
    save_model(run, "1")
    run.push()
    copy = run.working_copy
    assert copy is not None
    assert copy.here(tmp_path / "worker") is copy
    elsewhere = WorkingCopy(store, tmp_path / "not-mounted" / "out").here(tmp_path / "worker")
    elsewhere.pull("models/page_visit")
    (elsewhere.folder / "checkpoints").mkdir()
    (elsewhere.folder / "checkpoints" / "run.safetensors").write_text("rank 0")
    append_metrics(elsewhere.folder / "metrics.jsonl", {"train/loss": 1.0})
    elsewhere.push("models", "checkpoints", "metrics.jsonl")
    run.pull("models", "checkpoints")
    assert (run.model("page_visit") / "weights.safetensors").read_text() == "1"
    assert (run.checkpoints("") / "run.safetensors").read_text() == "rank 0"
    append_metrics(run.metrics, {"stage": "train"})
    run.push()
    assert ["train/loss" in line for line in read_metrics(run.metrics)] == [True, False]


@pytest.mark.parametrize("name", ["x" * 300, "folder/a\0b"], ids=["too long", "a zero byte"])
def test_a_name_that_no_file_here_can_have_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # of that module alone: threads of others sleep meanwhile
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("it was tried again"))
    monkeypatch.setattr(stores, "time", clock)
    store = Store(f"memory://{tmp_path.name}")
    store.system.pipe_file(store.full(name), b"rows")
    with pytest.raises(OutputError, match=r"memory://.*: expected .*found"):
        copy_folder(store, tmp_path / "data")
