"""``ubp validate`` and ``ubp probe --entry``: any entry, judged from nothing but a challenge directory."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from jobs.cli import main
from jobs.commands.probe import list_unmade_stages, prepare_tables
from jobs.pipeline.registry import find_stage
from jobs.storage.workspace import Workspace
from schemas.errors import InputError

CODES = "[" + " ".join(["7"] * 16) + "]"
CLIENTS = np.arange(1, 13)
CONFIG = load_config("demo")
SMALL = ["--config", "demo", "--set", "probe.hidden_size=8", "probe.batch_size=4"]


@pytest.fixture
def data(tmp_path):
    """Twelve clients who buy in July; in both target windows the even ones buy sku 1, client 1 sku 2."""
    rows = [(client, "2022-07-01 10:00:00", 1) for client in CLIENTS]
    for day in ("2022-09-05", "2022-09-28"):
        rows += [(client, f"{day} 10:00:00", 1) for client in CLIENTS if client % 2 == 0]
        rows.append((1, f"{day} 09:00:00", 2))
    folder = tmp_path / "data"
    folder.mkdir()
    clients, times, skus = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"client_id": clients, "timestamp": times, "sku": skus}), folder / "product_buy.parquet")
    products = {"sku": [1, 2], "category": [5, 6], "price": [10, 20], "name": [CODES, CODES]}
    pq.write_table(pa.table(products), folder / "product_properties.parquet")
    return folder


@pytest.fixture
def entry(tmp_path):
    """Profiles that tell odd clients from even ones, the clients in falling order."""
    folder = tmp_path / "mine"
    folder.mkdir()
    np.save(folder / "client_ids.npy", CLIENTS[::-1])
    np.save(folder / "embeddings.npy", np.where(CLIENTS[::-1] % 2, 4.0, -4.0)[:, None].astype(np.float16))
    return folder


def name_clients(data, ids):
    (data / "input").mkdir()
    np.save(data / "input" / "relevant_clients.npy", np.array(ids))


def test_a_valid_entry_is_told_in_a_line_without_spark(data, entry, capsys):
    name_clients(data, CLIENTS)
    assert main(["validate", "--entry", str(entry), "--data", str(data)]) == 0
    assert capsys.readouterr().out == (
        f"{entry}: 12 relevant clients, each once, and as many profiles of 1 float16 numbers, all finite: "
        "the entry keeps the competition's rules\n"
    )


def test_an_entry_that_breaks_rules_exits_with_2_and_one_message(data, entry, caplog):
    name_clients(data, [*CLIENTS, 77])
    np.save(entry / "embeddings.npy", np.full((12, 1), np.nan, dtype=np.float16))
    assert main(["validate", "--entry", str(entry), "--data", str(data)]) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "1 relevant clients are missing (77); embeddings.npy holds 12 NaN" in record.getMessage()


def test_without_a_list_the_relevant_clients_are_those_with_input_events(spark, data, entry, capsys, caplog):
    assert main(["validate", "--entry", str(entry), "--data", str(data), *SMALL]) == 0
    assert "12 relevant clients" in capsys.readouterr().out
    np.save(entry / "client_ids.npy", [*CLIENTS[:-1], 99])
    assert main(["validate", "--entry", str(entry), "--data", str(data), *SMALL]) == 2
    assert "1 relevant clients are missing (12); 1 ids are not relevant clients (99)" in caplog.text


def test_a_missing_directory_is_told(entry, tmp_path, caplog):
    assert main(["validate", "--entry", str(entry), "--data", str(tmp_path / "none")]) == 2
    assert "expected a challenge directory" in caplog.text


def test_an_entry_that_settings_name_must_be_there(data, tmp_path, caplog):
    settings = ["--set", f"probe.entries=['{tmp_path / 'nowhere'}']"]
    assert main(["probe", "--data", str(data), "--out", str(tmp_path / "out"), *settings]) == 2
    assert f"probe.entries: expected client_ids.npy and embeddings.npy in {tmp_path / 'nowhere'}" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_any_entry_is_scored_from_a_challenge_directory_alone(spark, data, entry, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    name_clients(data, CLIENTS)
    out = tmp_path / "out"
    flags = ["probe", "--entry", str(entry), "--out", str(out), "--tasks", "churn", "conversion", "--repeats", "2"]
    assert main([*flags, "--data", str(data), *SMALL]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["mine"]
    assert list(scores["mine"]) == ["churn", "conversion"]
    assert scores["mine"]["churn"]["n_repeats"] == 2
    shown = capsys.readouterr().out
    assert f"{scores['mine']['churn']['score']:.4f}*" in shown
    assert "Mean ± standard deviation" in shown
    assert "lacks what ingest, split, targets make: running them" in caplog.text
    made = {"product_properties", "product_buy", "quarantine", "windows", "clients", "labels", "targets", "scores"}
    assert {path.name for path in (out / "tables").iterdir()} == made

    caplog.clear()
    assert main([*flags, *SMALL]) == 0
    assert "4 units, 4 of them scored before" in caplog.text
    assert "running them" not in caplog.text

    other = shutil.copytree(data, tmp_path / "other")
    assert main([*flags, "--data", str(other), *SMALL]) == 2
    assert f"--data {other}: expected the challenge directory that the tables of {out} were made from" in caplog.text
    assert not (out / "config.yaml").exists(), "a run's settings would be overwritten"


@pytest.fixture
def place(data, tmp_path):
    workspace = Workspace(tmp_path / "out", data)
    workspace.prepare()
    return workspace


def break_off(*_):
    raise InputError("rows were lost")


def test_a_stage_that_ended_with_an_error_runs_again(place, monkeypatch):
    leave_out_work(monkeypatch, break_off)
    with pytest.raises(InputError):
        prepare_tables(NoWork(), CONFIG, place)
    ran = leave_out_work(monkeypatch)
    for _ in range(2):
        prepare_tables(NoWork(), CONFIG, place)
        assert ran == ["ingest", "split", "targets"]
    leave_out_work(monkeypatch, break_off)
    with pytest.raises(InputError):
        find_stage("split").run(NoWork(), CONFIG, place)
    assert list_unmade_stages(CONFIG, place) == ["split", "targets"]


def test_tables_count_as_made_only_where_they_lie_and_of_the_data_that_is_named(place, tmp_path, monkeypatch):
    leave_out_work(monkeypatch)
    prepare_tables(NoWork(), CONFIG, place)
    assert list_unmade_stages(CONFIG, Workspace(place.out)) == []
    assert list_unmade_stages(CONFIG, Workspace(place.out, place.data, tables_url="s3://bucket/x")) == [
        "ingest", "split", "targets",
    ]  # fmt: skip
    with pytest.raises(InputError, match="leave --data out to score on those, or choose another --out"):
        list_unmade_stages(CONFIG, Workspace(place.out, tmp_path / "other"))
    name_clients(place.data, CLIENTS)
    with pytest.raises(
        InputError, match=r"split was made from, found input/relevant_clients\.npy added; leave --data out"
    ):
        list_unmade_stages(CONFIG, place)
    assert list_unmade_stages(CONFIG, Workspace(place.out)) == []


def test_a_task_that_does_not_exist_is_refused(entry, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["probe", "--entry", str(entry), "--data", str(data), "--out", str(tmp_path / "out"), "--tasks", "dance"])
    assert exit_.value.code == 2
    assert "propensity_new_sku" in capsys.readouterr().err
