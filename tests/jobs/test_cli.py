"""Bad arguments, configuration and input: exit code 2, one message, and an untouched output directory."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark import SparkContext
from s3_server import BUCKET, S3Server

from conf.load import load_config, to_yaml
from conf.pipeline import PipelineConfig
from jobs import cli
from jobs.cli import main
from jobs.commands import calls
from jobs.commands.calls import locked_stages
from jobs.commands.flags import build_parser
from jobs.pipeline.registry import settings_of
from jobs.storage.provenance import CONFIG, Record, changed_records
from jobs.storage.workspace import Workspace
from ml.files.store import Store
from schemas.errors import ConfigError

EVENTS = {"client_id": [1, 2], "timestamp": ["2022-06-01 00:00:00"] * 2}
CODES = "[" + " ".join(["7"] * 16) + "]"


def write(path: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The smallest directory that passes the checks."""
    folder = tmp_path / "data"
    (folder / "input").mkdir(parents=True)
    write(folder / "product_buy.parquet", **EVENTS, sku=[1, 1])
    write(folder / "page_visit.parquet", **EVENTS, url=[5, 6])
    write(folder / "search_query.parquet", **EVENTS, query=[CODES, CODES])
    write(folder / "product_properties.parquet", sku=[1], category=[1], price=[1], name=[CODES])
    np.save(folder / "input" / "relevant_clients.npy", np.array([1, 2]))
    return folder


def without_a_directory(data: Path) -> None:
    shutil.rmtree(data)


def without_buys(data: Path) -> None:
    (data / "product_buy.parquet").unlink()


def without_a_column(data: Path) -> None:
    write(data / "page_visit.parquet", **EVENTS, page=[5, 6])


def without_relevant_clients(data: Path) -> None:
    np.save(data / "input" / "relevant_clients.npy", np.array([], np.int64))


def without_purchases(data: Path) -> None:
    write(data / "product_buy.parquet", client_id=pa.array([], "int64"), timestamp=pa.array([], "string"),
          sku=pa.array([], "int64"))  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (without_a_directory, ["expected a challenge directory", "found nothing", "ubp generate"]),
        (without_buys, ["product_buy.parquet is missing", "page_visit.parquet", "every run needs it"]),
        (without_a_column, ["page_visit.parquet", "'url': expected an integer, found none", "'page'"]),
        (
            without_relevant_clients,
            ["relevant_clients.npy", "non-empty", "found int64 of shape [0]", "remove it"],
        ),
        (without_purchases, ["product_buy.parquet", "holds no purchase"]),
    ],
)
def test_bad_input_is_told_in_one_message_and_nothing_is_touched(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], expected: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.json").write_text("{}")
    spoil(data)
    assert main(["run", "--data", str(data), "--out", str(out), "--config", "demo"]) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    for part in expected:
        assert part in record.getMessage()
    assert not record.exc_info
    assert [path.name for path in out.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config", "dmeo"], "no configuration 'dmeo'"),
        (["--set", "training.epoch=1"], "unknown key 'training.epoch'"),
        (["--set", "training.epoch=1", "--set", "training.n_ranks=2"], "unknown key 'training.epoch'"),
        (["--from", "report", "--to", "ingest"], "--from report comes after --to ingest"),
        (["--from", "train", "--restart"], "--restart and --from: expected one of them"),
        (["--inputs", "rees47"], "no configuration 'rees47'"),
        (["--inputs", "rees46"], "inputs.product_buy: expected "),  # there is no CSV
    ],
)
def test_wrong_flags_are_refused_before_anything_starts(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: list[str], expected: str
) -> None:
    assert main(["run", "--data", str(data), "--out", str(tmp_path / "out"), *flags]) == 2
    assert expected in caplog.text


def test_a_configuration_without_purchases_is_refused_before_anything_starts(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tmp_path / "visits.yaml"
    settings.write_text("behaviours: {page_visit: {item: url}}\n")
    for command in ("run", "ingest"):
        assert main([command, "--data", str(data), "--out", str(tmp_path / "out"), "--config", str(settings)]) == 2
        assert "ConfigError: expected the behaviour product_buy" in caplog.text
        caplog.clear()
    assert not (tmp_path / "out").exists()


def test_what_a_mapping_has_no_input_for_is_left_out_with_a_line_each(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="jobs")
    main(["ingest", "--inputs", "rees46", "--data", str(data), "--out", str(tmp_path / "out"), "--config", "demo"])
    for kind in ("behaviour", "encoder"):
        assert f"{kind} search_query: left out: the mapping rees46 has no input for it" in caplog.text
    assert caplog.text.count("left out") == 2
    assert "encoder mixed: reads product_buy, add_to_cart, remove_from_cart, page_visit, of which" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_mapping_that_changed_is_a_setting_of_ingest_that_changed() -> None:
    of = {
        name: settings_of(["ingest", "split"], load_config("demo", inputs=name)) for name in (None, "taobao", "rees46")
    }
    assert of["taobao"]["ingest"]["mapping.inputs.page_visit"]["path"] == "UserBehavior.csv"
    assert [settings["ingest"]["mapping.name"] for settings in of.values()] == [None, "taobao", "rees46"]
    assert not any(key.startswith("mapping") for settings in of.values() for key in settings["split"])


def test_a_command_locks_every_stage_that_it_may_run() -> None:
    def locks(*call: str) -> list[str]:
        return locked_stages(build_parser().parse_args([*call, "--out", "x"]))

    assert locks("probe") == ["probe"]
    assert locks("probe", "--entry", "mine") == ["ingest", "split", "targets", "probe"]
    assert locks("compact") == locks("vacuum") == locks("run")
    assert locks("vacuum", "--dry-run") == []


def test_tasks_given_several_times_add_up() -> None:
    arguments = build_parser().parse_args(["ablate", "--out", "x", "--tasks", "churn", "--tasks", "conversion"])
    assert arguments.tasks == ["churn", "conversion"]


def test_an_out_that_cannot_be_written_is_refused(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    assert main(["run", "--data", str(data), "--out", str(occupied / "out"), "--config", "demo"]) == 2
    assert "expected a folder that can be made and written" in caplog.text
    assert occupied.read_text() == "mine"


def test_unknown_commands_and_missing_flags_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["dance"], ["run"], ["run", "--out", "x", "--from", "nowhere"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
    capsys.readouterr()


def test_verbose_shows_the_stack_trace(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["run", "--data", str(data / "no"), "--out", str(tmp_path / "out"), "--verbose"])
    assert "Traceback" in caplog.text


def test_a_flag_of_one_value_is_taken_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["run", "--out", "a", "--config", "demo", "--config", "report"])
    assert refusal.value.code == 2
    assert "argument --config: expected it once, found it twice" in capsys.readouterr().err
    parser = build_parser()
    assert [parser.parse_args(["run", "--out", out]).out for out in ("a", "b")] == [Path.cwd() / "a", Path.cwd() / "b"]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"ubp \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_every_stage_has_a_command_and_a_file_with_the_same_flags(capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.pipeline.registry import STAGES

    root = Path(__file__).parents[2]
    for stage in STAGES:
        with pytest.raises(SystemExit):
            main([stage.name, "--help"])
        flags = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert {"--data", "--out", "--config", "--set", "--verbose"} - flags == set(), stage.name
        assert f'    main_stage("{stage.name}")' in (root / f"{stage.module.replace('.', '/')}.py").read_text()


def test_modules_of_the_working_directory_are_not_those_of_ubp_whatever_pythonpath_says(tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("raise SystemExit('theirs')")
    root = str(Path(__file__).parents[2])
    code = "import atexit, os, jobs.start\natexit.register(lambda: print(os.environ['PYTHONPATH']))\njobs.start.main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f".::{root}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == root, "children do not look there either"


def test_settings_of_python_and_matplotlib_in_the_environment_are_no_concern_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    code = """
import jobs.cli, jobs.start
def draw():
    from jobs.reporting.figures import draw_task_scores
    assert draw_task_scores("churn", {"a": {"churn": {"score": 0.5}}}, "churn").startswith("<svg")
jobs.cli.main = draw
jobs.start.main()
"""
    odd = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONWARNINGS": "error"}
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=tmp_path, env=os.environ | odd | root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    refused = subprocess.run(
        [sys.executable, "-OO", "-c", "import sys, jobs.start; sys.exit(jobs.start.main())"],
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, "PYTHONOPTIMIZE=2" in refused.stderr) == (2, True)


def test_what_a_daemon_has_closed_or_filled_is_no_unexpected_error(tmp_path: Path) -> None:
    ubp = [sys.executable, "-c", "import sys, jobs.start; sys.exit(jobs.start.main())"]

    def run_in_shell(redirection: str) -> subprocess.CompletedProcess[str]:
        line = f"{shlex.join([*ubp, 'status', '--out', 'out'])} {redirection}"
        return subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "out").mkdir()
    assert run_in_shell(">&- 2>&- <&-").returncode == 0
    full = run_in_shell(">/dev/full")
    assert full.returncode == 2
    assert "expected room for the answer on stdout" in full.stderr
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir {shlex.quote(str(gone))}; {shlex.join([*ubp, 'status', '--out', 'out'])}"
    moved = subprocess.run(["sh", "-c", line], cwd=gone, capture_output=True, text=True)
    assert moved.returncode == 2
    assert "expected a working directory, found that it was removed" in moved.stderr


def test_help_and_a_refused_flag_import_no_large_library() -> None:
    code = """
import sys
from jobs.cli import main
for call in (["--help"], ["train", "--help"], ["run"], ["run", "--out", "x", "--from", "nowhere"], ["dance"]):
    try:
        main(call)
    except SystemExit:
        pass
large = {"pyspark", "py4j", "delta", "torch", "horovod", "petastorm", "pyarrow", "pandas", "numpy", "matplotlib"}
sys.exit(str(found) if (found := large & set(sys.modules)) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("last", "is_imported"), [("sequences", False), ("train", True)])
def test_only_a_run_that_trains_imports_torch(data: Path, tmp_path: Path, last: str, is_imported: bool) -> None:
    code = """
import importlib, sys
from jobs import cli
from jobs.pipeline.registry import STAGE_NAMES, STAGES
def end(*_):
    for stage in STAGES[: 1 + STAGE_NAMES.index(sys.argv[-1])]:
        importlib.import_module(stage.module)
    sys.exit(str("torch" in sys.modules))
cli.start_session = end
cli.main(sys.argv[1:])
"""
    call = ["run", "--data", str(data), "--out", str(tmp_path / "out"), "--to", last]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == str(is_imported)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (["train", "--only", "page_visit", "search", "cart"], "found search, cart; correct them"),
        (["train", "--only", "search"], "--only: expected names of encoders, product_buy, add_to_cart, "),
    ],
)
def test_encoders_that_do_not_exist_are_refused_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: list[str], expected: str
) -> None:
    assert main([*call, "--out", str(tmp_path / "out"), "--config", "demo"]) == 2
    assert expected in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["ablate"], ["recommend", "--encoder", "page_visit"]])
def test_what_reads_a_run_has_its_settings_unless_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    told = "ensemble.blocks=[counters]"
    (tmp_path / CONFIG).write_text(to_yaml(load_config("demo", [told, "seed=7"])))
    monkeypatch.setattr(calls, "_lock", lambda *_: None)

    def settings(*more: str) -> PipelineConfig:
        arguments = build_parser().parse_args([*command, "--out", str(tmp_path), *more])
        return calls.prepare(arguments, reads_data=False)[0]

    assert settings() == load_config("demo", [told, "seed=7"])
    assert settings("--set", "probe.repeats=3") == load_config("demo", [told, "seed=7", "probe.repeats=3"])
    assert settings("--config", "default") == load_config("default")
    with pytest.raises(ConfigError):
        settings("--config", "")
    (tmp_path / CONFIG).unlink()
    assert settings() == load_config("default")


def test_the_settings_of_a_run_in_a_store_are_read_there(server: S3Server) -> None:
    store = Store(f"s3://{BUCKET}/run")
    assert calls._find_settings(store.url) == "default"
    store.write(CONFIG, to_yaml(load_config("demo", ["seed=7"])).encode())
    assert load_config(calls._find_settings(store.url)) == load_config("demo", ["seed=7"])


@pytest.mark.parametrize("call", [["sequences"], ["probe"], ["ablate"], ["run", "--from", "sequences"]])
def test_outputs_that_are_out_of_date_are_refused_before_spark_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, call: list[str]
) -> None:
    place = Workspace(tmp_path / "out")
    with changed_records(place) as records:
        for output, inputs in {"ingest": {}, "split": {"ingest": "of an earlier one"}}.items():
            settings = settings_of([output], load_config())
            records[output] = Record(output, made="today", inputs=inputs, settings=settings[output])
    monkeypatch.setattr(cli, "start_session", None)
    assert main([*call, "--out", str(place.out)]) == 2
    assert "OutdatedError" in caplog.text
    assert "expected split made from the newest ingest, found that it was made from an earlier one" in caplog.text
    assert "run again from split (`ubp run --from split`)" in caplog.text


def test_a_session_is_given_out_once_its_executors_have_found_the_folders(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SimpleNamespace(sparkContext="context")
    monkeypatch.setattr("jobs.runtime.session.build_session", lambda *_, **__: session)
    monkeypatch.setattr("jobs.storage.delta_tables.require_schema", lambda *_: None)
    asked: list[object] = []
    monkeypatch.setattr("jobs.runtime.preflight.require_mounts", lambda *folders: asked.extend(folders))
    config = load_config("demo")
    assert calls.start_session(argparse.Namespace(verbose=False), config, workspace) is session  # type: ignore[comparison-overlap]
    assert asked == ["context", workspace.out, workspace.challenge]


def test_an_error_of_cleaning_up_after_ctrl_c_is_still_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the jobs were cancelled")

    monkeypatch.setitem(cli._COMMANDS, "status", fail)
    assert main(["status", "--out", str(tmp_path)]) == 130


@pytest.mark.parametrize(
    ("command", "is_copied"),
    [(["ingest"], True), (["run", "--from", "embed"], True), (["train"], False), (["probe"], False),
     (["probe", "--entry", "e"], True)],
)  # fmt: skip
def test_data_in_a_store_is_copied_for_what_reads_it_and_for_local_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], is_copied: bool
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(calls, "copy_folder", lambda store, _: copied.append(store.url))
    arguments = build_parser().parse_args([*command, "--data", "s3://shop/data", "--out", str(tmp_path)])
    workspace = calls.open_workspace(arguments, load_config("demo"))
    assert (workspace.resolved_data, workspace.challenge is not None) == ("s3://shop/data", is_copied)
    assert copied == ["s3://shop/data"] * is_copied
    if is_copied:
        monkeypatch.setattr(SparkContext, "_active_spark_context", None)  # the session of other tests
        with pytest.raises(ConfigError, match=r"--data s3://shop/data: expected local mode, .* spark\.master=yarn"):
            calls.open_workspace(arguments, load_config("demo", ["spark.master=yarn"]))
        monkeypatch.setattr(SparkContext, "_active_spark_context", SimpleNamespace(master="yarn"))  # of the platform
        with pytest.raises(ConfigError, match=r"expected local mode, .* spark\.master=yarn"):
            calls.open_workspace(arguments, load_config("demo"))
