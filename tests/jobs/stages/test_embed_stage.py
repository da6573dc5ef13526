"""Vectors per client: the padding, the order, the absent, and the model they come from."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_tables import write_shop
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.stages import embed
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.entry_rules import validate_entry
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from jobs.transforms.windows import derive_windows, windows_frame
from ml.data.sequence_batch import Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.inference.embed import embed_sequences
from ml.models.transformer import Transformer
from ml.training.checkpoint import ModelCard, save_model
from schemas.errors import EntryError, ModelError
from schemas.tables import CLIENTS, EMBEDDINGS, SEQUENCES, VOCABULARIES, WINDOWS
from schemas.tokens import FIRST_ITEM

BEHAVIOURS = ["product_buy", "page_visit"]
N_ITEMS = 9
CLIENT_IDS = [50, 10, 40, 20]
TOKENS = {"product_buy": {50: [3, 4], 10: [5]}, "page_visit": {50: [3, 4, 5, 6, 7, 8, 9], 20: [4, 3], 99: [3]}}


def config(*overrides: str) -> PipelineConfig:
    told = ["model.hidden_size=8", "model.n_layers=1", "inference.append_activity=false", "ensemble.blocks=[]"]
    return load_config("demo", [*told, *overrides])


RAW = [
    "ensemble.blocks_weight=1",
    "ensemble.blocks_scaling=none",
    "ensemble.scaling=none",
    "ensemble.absent=zeros",
    "ensemble.presence_flags=true",
]


@pytest.fixture
def models(spark: SparkSession, workspace: Workspace) -> dict[str, Transformer]:
    """Tables of four clients, and one model of random weights per behaviour."""
    words = [(name, str(item), FIRST_ITEM + item, 9) for name in BEHAVIOURS for item in range(N_ITEMS)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    clients = [(position, client, True) for position, client in enumerate(CLIENT_IDS)]
    write_table(spark.createDataFrame(clients, CLIENTS.ddl), workspace, CLIENTS)
    rows = [(name, False, 8, client, ids, len(ids)) for name, own in TOKENS.items() for client, ids in own.items()]
    write_table(spark.createDataFrame(rows, SEQUENCES.ddl), workspace, SEQUENCES)
    summaries = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    made = {}
    for seed, name in enumerate(BEHAVIOURS):
        torch.manual_seed(seed)
        settings, vocabulary = config().encoders[name], VocabularyDescription(FIRST_ITEM + N_ITEMS)
        made[name] = Transformer(settings, vocabulary)
        card = ModelCard(name, settings, vocabulary, summaries[name].fingerprint, 0)
        save_model(workspace.model(name), made[name], card, {})
    return made


def load_entry(workspace: Workspace, name: str) -> np.ndarray:
    validate_entry(workspace.entry(name), np.array(CLIENT_IDS))
    assert np.load(workspace.entry(name) / "client_ids.npy").tolist() == CLIENT_IDS
    return np.load(workspace.entry(name) / "embeddings.npy").astype(np.float32)


def test_entries_hold_each_clients_vectors_in_the_clients_order(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    embed.run(spark, config(*RAW), workspace)
    entries = {name: load_entry(workspace, name) for name in (*BEHAVIOURS, "ensemble")}
    for name, model in models.items():
        for row, client in enumerate(CLIENT_IDS):
            ids = TOKENS[name].get(client)
            # each alone, so that neither batch nor padding can have a part in it
            expected = embed_sequences(model, Sequences.from_rows([ids]), config().inference)[0] if ids else 0.0
            np.testing.assert_allclose(entries[name][row], expected, atol=2e-3)
    flags = [[1, 1], [1, 0], [0, 0], [0, 1]]
    whole = np.concatenate([entries["product_buy"], entries["page_visit"], np.array(flags)], axis=1)
    np.testing.assert_array_equal(entries["ensemble"], whole)


def test_the_table_says_which_behaviours_a_client_has(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    embed.run(spark, config(*RAW, "ensemble.presence_flags=false"), workspace)
    rows = read_table(spark, workspace, EMBEDDINGS).orderBy("position").collect()
    assert [row["client_id"] for row in rows] == CLIENT_IDS
    assert [row["present"] for row in rows] == [BEHAVIOURS, ["product_buy"], [], ["page_visit"]]
    assert all(len(row["embedding"]) == 16 for row in rows)
    assert load_entry(workspace, "ensemble").shape == (4, 16)


def test_how_much_a_client_did_and_how_recently_may_be_appended(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    settings = config(*RAW, "inference.append_activity=true", "inference.activity_days=[7,14]")
    times = {
        50: ["2022-06-29 12:00:00", "2022-06-20", "2022-01-01", "2022-07-01"],
        10: ["2022-06-24"],
        77: ["2022-06-24"],
    }
    buys = [(client, time, 1) for client, own in times.items() for time in own]
    visits = [(50, "2022-06-23 23:59:59", 1), (20, "2022-06-30 23:59:59", 1), (40, "2022-06-30", 1)]
    write_shop(spark, workspace, settings, product_buy=buys, page_visit=visits)
    windows = derive_windows(datetime(2022, 7, 28), settings.windows)
    assert windows.input_end == datetime(2022, 7, 1)
    write_table(windows_frame(spark, windows), workspace, WINDOWS)
    embed.run(spark, settings, workspace)
    expected = {
        "product_buy": [[3, 1, 2], [1, 1, 1], [0] * 3, [0] * 3],
        "page_visit": [[1, 0, 1], *[[0] * 3] * 2, [1] * 3],
    }
    for name, counts in expected.items():  # client 40 visited, but no page that the vocabulary knows
        entry = load_entry(workspace, name)
        assert entry.shape == (4, 11)
        np.testing.assert_allclose(entry[:, 8:], np.log1p(counts), rtol=1e-3)
    assert load_entry(workspace, "ensemble").shape == (4, 24)


def test_further_blocks_make_a_further_entry_which_goes_when_they_go(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    with pytest.raises(EntryError, match=r"block .baseline.: expected .* run the stage that writes them first"):
        embed.run(spark, config("ensemble.blocks=[baseline]"), workspace)
    assert not Path(workspace.table("embeddings")).exists()
    workspace.entry("baseline").mkdir(parents=True)
    np.save(workspace.entry("baseline") / "client_ids.npy", np.array(CLIENT_IDS))
    np.save(workspace.entry("baseline") / "embeddings.npy", np.array([[1, 0], [0, 0], [5, 2], [0, 3]], np.float16))
    embed.run(spark, config(*RAW, "ensemble.blocks=[baseline]"), workspace)
    assert load_entry(workspace, "ensemble").shape == (4, 18)
    both = load_entry(workspace, "ensemble+baseline")
    np.testing.assert_array_equal(both[:, :16], load_entry(workspace, "ensemble")[:, :16])
    np.testing.assert_allclose(both[:, 16:18], np.log1p([[1, 0], [0, 0], [5, 2], [0, 3]]), rtol=1e-3)
    assert both[:, -1].tolist() == [1, 0, 1, 1]
    embed.run(spark, config(), workspace)
    assert not workspace.entry("ensemble+baseline").exists()
    assert workspace.entry("baseline").exists()


def test_a_model_of_another_vocabulary_is_refused(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    words = [(name, str(item), FIRST_ITEM + item, 9) for name in BEHAVIOURS for item in range(N_ITEMS + 1)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    with pytest.raises(ModelError, match="belongs to another vocabulary"):
        embed.run(spark, config(), workspace)
    assert not workspace.entry("ensemble").exists()


def test_without_a_model_the_stage_to_run_is_named(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer], tmp_path: Path
) -> None:
    for name in BEHAVIOURS:
        workspace.model(name).rename(tmp_path / name)
    with pytest.raises(ModelError, match="run train first"):
        embed.run(spark, config(), workspace)
