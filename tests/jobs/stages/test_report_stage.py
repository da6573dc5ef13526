import json
import re
import shutil
from datetime import datetime

import pytest
from report_facts import some_ablation

from conf.load import load_config
from jobs.blocks.table import collect_absent_shares
from jobs.evaluation.ablation import describe_sources, read_ablation
from jobs.evaluation.scores import read_scores
from jobs.reporting.facts import (
    ProfileMap,
    SequenceFacts,
    VocabularyFacts,
    collect_profile_map,
    collect_quarantine,
    collect_sequence_facts,
    collect_vocabulary_facts,
)
from jobs.stages.report import run
from jobs.storage.delta_tables import write_table
from jobs.storage.metrics_log import append_metrics
from jobs.storage.provenance import Record, changed_records
from schemas.errors import TableError
from schemas.tables import (
    BLOCK_COLUMNS,
    BLOCKS,
    CLIENTS,
    LABELS,
    PROFILES,
    QUARANTINE,
    SEQUENCES,
    VOCABULARIES,
    WINDOWS,
)

pytestmark = pytest.mark.spark

PLAIN = "ensemble.activity=false"
CONFIG = load_config("demo", [PLAIN])
SCORES = {
    "baseline": {"churn": {"score": 0.6111, "auroc": 0.6111}, "conversion": {"score": 0.5222, "auroc": 0.5222}},
    "ensemble": {"churn": {"score": 0.6333, "auroc": 0.6333}, "conversion": {"score": 0.5444, "auroc": 0.5444}},
}
CUTOFF = datetime(2022, 11, 1)
ROWS = {
    WINDOWS: [("evaluate", CUTOFF, CUTOFF, datetime(2022, 11, 15), datetime(2022, 11, 28))],
    CLIENTS: [(0, 70, True), (1, 71, False), (2, 72, False)],
    VOCABULARIES: [("product_buy", "9", 3, 40), ("product_buy", "8", 4, 2), ("page_visit", "5", 3, 1)],
    SEQUENCES: [
        ("product_buy", False, 8, 70, [3, 3, 4, 3, 3], 5, None, None),
        ("product_buy", True, 1, 71, [4], 1, None, None),
        ("page_visit", False, 64, 70, [3] * 64, 100, None, None),
    ],
    BLOCKS: [
        (name, CUTOFF, client, client in present, [float(client)] if client in present else None)
        for name, present in {"product_buy": (70, 71), "page_visit": (70,), "baseline": (70,)}.items()
        for client in (70, 71, 72)
    ],
    PROFILES: [
        ("ensemble", 0, 70, [1.0, 0.0, 2.0], ["product_buy", "page_visit"], None, {}),
        ("ensemble", 1, 71, [0.0, 1.0, 0.0], ["product_buy"], None, {}),
        ("ensemble", 2, 72, [0.0, 0.0, 0.0], [], None, {}),
        ("ensemble+baseline", 0, 70, [9.0], ["baseline"], None, {}),
    ],
    LABELS: [("propensity_sku", 0, 9, 0.5)],
    QUARANTINE: [("page_visit", "no <url>", "{}"), ("page_visit", "no <url>", "{}"), ("product_buy", "no sku", "{}")],
}
SOURCES = (WINDOWS, LABELS, BLOCKS)  # of an ablation, with the blocks' columns
SECTIONS = ["scores", "ablation", "training", "data", "quarantine", "profiles", "run", "configuration"]


@pytest.fixture(scope="module")
def tables(spark):
    return {table: spark.createDataFrame(rows, table.ddl) for table, rows in ROWS.items()}


@pytest.fixture(scope="module")
def sources(spark, tables, shared_workspace):
    for table in SOURCES:
        write_table(tables[table], shared_workspace, table)
    write_names(spark, shared_workspace)
    write_ablation(spark, shared_workspace)
    return shared_workspace


@pytest.fixture
def ablated(sources, workspace):
    """A workspace with all that an ablation is made of, and the ablation."""
    shutil.copytree(sources.out, workspace.out, dirs_exist_ok=True)
    return workspace


@pytest.fixture
def finished(tables, ablated):
    """A workspace as the stages before the report leave it."""
    workspace = ablated
    for table, frame in tables.items():
        if table not in SOURCES:
            write_table(frame, workspace, table)
    (workspace.out / "scores.json").write_text(json.dumps(SCORES))
    append_metrics(workspace.metrics, {"stage": "ingest", "stage/seconds": 12.34})
    with changed_records(workspace) as records:
        records["ingest"] = Record("ingest", made="today")
    training = {"behaviour": "product_buy", "epoch": 1, "step": 50}
    append_metrics(workspace.metrics, {**training, "train/loss": 4.5, "train/sequences_per_second": 100.0})
    append_metrics(workspace.metrics, {**training, "validation/ndcg@10": 0.1357, "validation/users": 3})
    return workspace


def write_names(spark, workspace, *more: str) -> None:
    """The table of the blocks' columns."""
    names = [(name, 0, "a", "a test") for name in ("product_buy", "baseline", *more)]
    write_table(spark.createDataFrame(names, BLOCK_COLUMNS.ddl), workspace, BLOCK_COLUMNS)


def write_ablation(spark, workspace) -> dict:
    """As ``ubp ablate`` leaves it."""
    ablation = some_ablation()
    ablation["made_of"] = describe_sources(spark, CONFIG, workspace, ablation["blocks"])
    (workspace.out / "ablation.json").write_text(json.dumps(ablation))
    return ablation


def test_the_page_has_every_section_and_the_terminal_the_scores(spark, finished, capsys):
    run(spark, CONFIG, finished)
    page = (finished.out / "report.html").read_text()
    told = capsys.readouterr().out
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    for number in ("0.6111", "0.5222", "0.6333", "0.5444", "1.1777"):
        assert number in page
        assert number in told
    for text in ("12.3 s", "0.1357", "+0.0100", "no &lt;url&gt;", "hidden size 256 instead of 2048", "hidden_size: 64"):
        assert text in page
    assert "hidden size 256 instead of 2048" in told
    assert told.endswith(f"{finished.out / 'report.html'}\n")
    assert set(re.findall(r"(?:src|href)=[\"'](?!#|data:)[^\"']*", page)) == set()

    append_metrics(finished.metrics, {"stage": "report", "stage/seconds": 1.0})
    run(spark, CONFIG, finished)
    assert (finished.out / "report.html").read_text() == page


def test_in_mode_entry_another_runs_scores_are_not_shown(spark, ablated):
    (ablated.out / "scores.json").write_text(json.dumps(SCORES))
    config = load_config("demo", [PLAIN, "windows.mode=entry"])
    assert read_scores(config, ablated) == {}
    assert read_ablation(spark, config, ablated) is None
    assert read_ablation(spark, CONFIG, ablated) == write_ablation(spark, ablated)


def another_model(spark, workspace):
    doubled = [(*row[:4], row[4] and [2 * row[4][0]]) if row[0] == "product_buy" else row for row in ROWS[BLOCKS]]
    write_table(spark.createDataFrame(doubled, BLOCKS.ddl), workspace, BLOCKS)


def another_behaviour(spark, workspace):
    write_names(spark, workspace, "page_visit")  # of which there are rows


def no_such_block(spark, workspace):
    rows = spark.createDataFrame(ROWS[BLOCKS], BLOCKS.ddl)
    write_table(rows.where("block != 'baseline'"), workspace, BLOCKS)


def other_labels(spark, workspace):
    write_table(spark.createDataFrame([("propensity_sku", 0, 9, 0.25)], LABELS.ddl), workspace, LABELS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_model, "block product_buy"),
        (another_behaviour, "block page_visit"),
        (no_such_block, "block baseline"),
        (other_labels, "labels"),
    ],
)
def test_an_ablation_of_an_earlier_run_is_left_out_once_what_it_was_made_of_changed(
    spark, ablated, caplog, change, told
):
    change(spark, ablated)
    assert read_ablation(spark, CONFIG, ablated) is None
    assert f"ablation.json left out: it was made with another {told}; run `ubp ablate` again" in caplog.text


def test_an_ablation_of_other_settings_is_left_out_and_one_of_other_repeats_is_not(spark, ablated):
    for setting in ("ensemble.scaling=block", "probe.epochs=1"):
        assert read_ablation(spark, load_config("demo", [PLAIN, setting]), ablated) is None
    for setting in ("probe.repeats=3", "ensemble.blocks=[]"):
        assert read_ablation(spark, load_config("demo", [PLAIN, setting]), ablated)


def test_an_ablation_that_does_not_say_what_it_was_made_of_is_left_out(spark, ablated):
    (ablated.out / "ablation.json").write_text(json.dumps(some_ablation()))
    assert read_ablation(spark, CONFIG, ablated) is None


def test_scores_that_are_missing_name_the_stage_to_run(workspace):
    with pytest.raises(TableError, match=r"expected .*scores\.json, found none; run the stage probe"):
        read_scores(CONFIG, workspace)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps(SCORES)[:-9], "EOF while parsing"),
        ("", "EOF while parsing"),
        ("\udcff", "Invalid JSON"),
        ("[1]", "should be an object"),
        ('{"ensemble": {"churn": 0.5}}', r"at ensemble\.churn"),
        ('{"ensemble": {"churn": {"score": "high", "auroc": 0.5}}}', r"valid number at ensemble\.churn\.score"),
        ('{"ensemble": {"churn": {"auroc": 0.5}}}', r"at ensemble\.churn\.score"),
    ],
)
def test_damaged_scores_are_told_with_the_place_and_what_to_do(workspace, content, told):
    path = workspace.out / "scores.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(TableError, match=rf"scores\.json: expected JSON.*found: .*{told}.*run the stage probe"):
        read_scores(CONFIG, workspace)


@pytest.mark.parametrize("content", ["{", "{}", '{"blocks": ["a"], "repeats": 1, "variants": [{"name": "all"}]}'])
def test_a_damaged_ablation_is_told_with_what_to_do(spark, ablated, content):
    (ablated.out / "ablation.json").write_text(content)
    with pytest.raises(TableError, match=r"ablation\.json: expected JSON.*run `ubp ablate`"):
        read_ablation(spark, CONFIG, ablated)


def test_a_file_that_cannot_be_read_is_told(workspace):
    (workspace.out / "scores.json").mkdir()
    with pytest.raises(
        TableError,
        match=r"scores\.json: expected a file that can be read, found: expected a regular file, found a folder",
    ):
        read_scores(CONFIG, workspace)


def test_lengths_are_counted_before_truncation_in_powers_of_two(tables):
    facts = collect_sequence_facts(tables[SEQUENCES], {"product_buy": 30, "page_visit": 64})
    assert facts == {
        "product_buy": SequenceFacts(2, 6, 1, 5, 0, [(0, 1), (2, 1)]),
        "page_visit": SequenceFacts(1, 100, 100, 100, 1, [(6, 1)]),
    }


def test_the_token_id_gives_the_rank_of_an_item(tables):
    facts = collect_vocabulary_facts(tables[VOCABULARIES], list(CONFIG.behaviours))
    assert facts == {
        "product_buy": VocabularyFacts(2, [(1, 40), (2, 2)]),
        "page_visit": VocabularyFacts(1, [(1, 1)]),
    }


def test_absent_clients_are_counted_for_every_encoder_that_has_a_block(tables):
    shares = collect_absent_shares(tables[BLOCKS], list(CONFIG.encoders))
    assert shares == pytest.approx({"product_buy": 1 / 3, "page_visit": 2 / 3})


def test_quarantined_rows_are_counted_by_source_and_reason(tables):
    assert collect_quarantine(tables[QUARANTINE]) == [("page_visit", "no <url>", 2), ("product_buy", "no sku", 1)]


def test_the_map_counts_the_events_of_the_client_at_each_row(tables):
    sample = collect_profile_map(tables[PROFILES].where("profile = 'ensemble'"), tables[SEQUENCES], 3)
    assert isinstance(sample, ProfileMap)
    assert sample.points.shape == (3, 2)
    assert sample.n_events.tolist() == [105, 1, 0]
