"""Vectors per client: the padding, the order, the absent, and the model they come from."""

import hashlib
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from block_tables import put_blocks
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks
from jobs.stages import embed
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from jobs.transforms.windows import derive_windows, windows_frame
from ml.data.sequence_batch import Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.inference.embed import embed_sequences
from ml.models.transformer import Transformer
from ml.training.checkpoint import ModelCard, save_model
from schemas.errors import ModelError
from schemas.tables import BLOCKS, CLIENTS, SEQUENCES, VOCABULARIES, WINDOWS
from schemas.tokens import FIRST_ITEM

BEHAVIOURS = ["product_buy", "page_visit"]
ENCODERS = [("product_buy", "product_buy", 8), ("page_visit", "page_visit", 8), ("second", "page_visit", 16)]
"""Name, stream and hidden size."""
SECOND = ["encoders.second.behaviours=[page_visit]", "encoders.second.inference.pooling=last"]
N_ITEMS = 9
CLIENT_IDS = [50, 10, 40, 20]
TOKENS = {"product_buy": {50: [3, 4], 10: [5]}, "page_visit": {50: [3, 4, 5, 6, 7, 8, 9], 20: [4, 3], 99: [3]}}


def config(*overrides: str) -> PipelineConfig:
    told = ["model.hidden_size=8", "model.n_layers=1", "ensemble.activity=false", "ensemble.blocks=[]"]
    return load_config("demo", [*told, *overrides])


@pytest.fixture(scope="module")
def made(spark: SparkSession, shared_workspace: Workspace) -> tuple[Path, dict[str, Transformer]]:
    workspace = shared_workspace
    words = [(name, str(item), FIRST_ITEM + item, 9) for name in BEHAVIOURS for item in range(N_ITEMS)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    clients = [(position, client, True) for position, client in enumerate(CLIENT_IDS)]
    write_table(spark.createDataFrame(clients, CLIENTS.ddl), workspace, CLIENTS)
    rows = [
        (name, False, 8, client, ids, len(ids), None, None)
        for name, own in TOKENS.items()
        for client, ids in own.items()
    ]
    write_table(spark.createDataFrame(rows, SEQUENCES.ddl), workspace, SEQUENCES)
    summaries = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    write_table(windows_frame(spark, derive_windows(datetime(2022, 7, 28), config().windows)), workspace, WINDOWS)
    made = {}
    for seed, (name, stream, size) in enumerate(ENCODERS):
        torch.manual_seed(seed)
        settings = replace(config(*SECOND).encoders[name], hidden_size=size)
        vocabulary = VocabularyDescription(FIRST_ITEM + N_ITEMS)
        made[name] = Transformer(settings, vocabulary)
        card = ModelCard(name, settings, vocabulary, summaries[stream].fingerprint, 0)
        save_model(workspace.model(name), made[name], card, {})
    return workspace.out, made


@pytest.fixture
def models(made: tuple[Path, dict[str, Transformer]], workspace: Workspace) -> dict[str, Transformer]:
    """Tables of four clients, and one model of random weights per behaviour."""
    out, models = made
    shutil.copytree(out, workspace.out, dirs_exist_ok=True)
    return models


def read_vectors(spark: SparkSession, workspace: Workspace) -> dict[str, dict[int, list[float] | None]]:
    """Block -> client -> vector, None where not present."""
    rows = read_table(spark, workspace, BLOCKS).collect()
    assert all(row["is_present"] == (row["vector"] is not None) for row in rows)
    assert {row["cutoff"] for row in rows} == {datetime(2022, 7, 1)}
    found: dict[str, dict[int, list[float] | None]] = {row["block"]: {} for row in rows}
    for row in rows:
        found[row["block"]][row["client_id"]] = row["vector"]
    return found


def test_each_encoder_has_a_block_of_its_own_width_of_the_stream_that_it_reads(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    embed.run(spark, config(*SECOND), workspace)
    found = read_vectors(spark, workspace)
    assert found.keys() == models.keys()
    for name, stream, size in ENCODERS:
        block = collect_blocks(spark, workspace)[name]
        assert len(block.columns) == size
        file = workspace.model(name) / "weights.safetensors"
        made_from = f"weights {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}, vocabulary "
        assert block.made_from.startswith(made_from), "the same model gives the same tables, wherever it was trained"
        assert found[name].keys() == set(CLIENT_IDS)
        settings = replace(config().inference, pooling="last" if name == "second" else "mean")
        for client, vector in found[name].items():
            ids = TOKENS[stream].get(client)
            if ids is None:
                assert vector is None
            else:  # each alone, so that neither batch nor padding can have a part in it
                expected = embed_sequences(models[name], Sequences.from_rows([ids]), settings)[0]
                np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_block_whose_model_is_gone_goes_with_a_line_and_one_of_another_stage_stays(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    embed.run(spark, config(*SECOND), workspace)
    put_blocks(spark, workspace, {"baseline": {50: [1]}})
    shutil.rmtree(workspace.model("second"))
    embed.run(spark, config(*SECOND), workspace)
    assert read_vectors(spark, workspace).keys() == {*BEHAVIOURS, "baseline"}
    assert collect_blocks(spark, workspace).keys() == {*BEHAVIOURS, "baseline"}
    assert "second: left out: there is no model" in caplog.text
    assert "second: its rows of an earlier run are removed" in caplog.text


def test_a_model_of_another_vocabulary_is_refused(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer]
) -> None:
    words = [(name, str(item), FIRST_ITEM + item, 9) for name in BEHAVIOURS for item in range(N_ITEMS + 1)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    with pytest.raises(ModelError, match="belongs to another vocabulary"):
        embed.run(spark, config(), workspace)
    assert not Path(workspace.table("blocks")).exists()


def test_without_a_model_the_stage_to_run_is_named(
    spark: SparkSession, workspace: Workspace, models: dict[str, Transformer], tmp_path: Path
) -> None:
    for name in models:
        workspace.model(name).rename(tmp_path / name)
    with pytest.raises(ModelError, match="run train first"):
        embed.run(spark, config(), workspace)
