import json

import numpy as np
import pandas as pd
import pytest
import torch
from report_facts import some_ablation, some_scores

from conf.encoders import EncoderSettings
from jobs.reporting.notebook_frames import (
    ablation_frame,
    frequent_items,
    neighbours_frame,
    scores_frame,
    sku_categories,
    training_frame,
)
from jobs.storage.delta_tables import write_table
from jobs.storage.metrics_log import append_metrics
from ml.data.vocabulary import VocabularyDescription
from ml.models.transformer import Transformer
from ml.training.checkpoint import ModelCard, save_model
from schemas.errors import InputError, TableError
from schemas.tables import PRODUCT_PROPERTIES, VOCABULARIES
from schemas.tasks import TASKS

ITEMS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])


@pytest.fixture(scope="module")
def trained(spark, shared_workspace):
    """Three skus, and a model whose vectors place 8 and 7 together."""
    workspace = shared_workspace
    rows = [("product_buy", "8", 3, 9), ("product_buy", "5", 4, 6), ("product_buy", "7", 5, 2),
            ("page_visit", "8", 3, 4)]  # fmt: skip
    write_table(spark.createDataFrame(rows, VOCABULARIES.ddl), workspace, VOCABULARIES)
    products = [(8, 1, 2, None), (5, None, 2, None)]
    write_table(spark.createDataFrame(products, PRODUCT_PROPERTIES.ddl), workspace, PRODUCT_PROPERTIES)
    settings = EncoderSettings(
        behaviours=("product_buy",), hidden_size=2, n_layers=1, n_heads=1, feed_forward_size=2, max_length=4
    )
    vocabulary = VocabularyDescription(6)
    model = Transformer(settings, vocabulary)
    with torch.no_grad():
        model.item_table.weight[3:] = ITEMS
    save_model(
        workspace.model("product_buy"), model, ModelCard("product_buy", settings, vocabulary, "fingerprint", 0), {}
    )
    return workspace


@pytest.mark.spark
def test_neighbours_are_named_by_their_keys(spark, trained):
    found = neighbours_frame(spark, trained, "product_buy", ["7", "8"], k=1)
    expected = pd.DataFrame(
        {"key": ["7", "8"], "place": [1, 1], "neighbour": ["8", "7"], "similarity": [1 / 1.01**0.5] * 2}
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


@pytest.mark.spark
def test_an_item_that_the_vocabulary_lacks_is_named(spark, trained):
    with pytest.raises(InputError, match="'6', which it lacks"):
        neighbours_frame(spark, trained, "product_buy", ["8", "6"])


@pytest.mark.spark
def test_the_most_frequent_items_of_a_behaviour_come_first(spark, trained):
    assert frequent_items(spark, trained, "product_buy", n=2) == ["8", "5"]


@pytest.mark.spark
def test_a_sku_without_a_category_is_nan(spark, trained):
    categories = sku_categories(spark, trained)
    assert categories["8"] == 1.0
    assert np.isnan(categories["5"])


def test_scores_are_a_row_per_entry_and_a_column_per_task(workspace):
    scores = some_scores(n_repeats=3)
    del scores["baseline"]["churn"]
    (workspace.out / "scores.json").write_text(json.dumps(scores))
    frame = scores_frame(workspace)
    assert list(frame.index) == list(scores)
    assert list(frame.columns) == list(TASKS)
    assert np.isnan(frame.loc["baseline", "churn"])
    assert frame.loc["ensemble", "conversion"] == scores["ensemble"]["conversion"]["score"]
    assert scores_frame(workspace, "std").loc["ensemble", "churn"] == 0.0034
    assert list(scores_frame(workspace, "novelty").columns) == list(TASKS[2:])


def test_the_ablation_is_a_row_per_variant(workspace):
    (workspace.out / "ablation.json").write_text(json.dumps(some_ablation()))
    frame = ablation_frame(workspace)
    assert frame.shape == (5, 6)
    assert frame.loc["only baseline", "churn"] == 0.5


@pytest.mark.parametrize(("read", "fix"), [(scores_frame, "the stage probe"), (ablation_frame, "`ubp ablate`")])
def test_the_stage_that_has_not_run_is_named(workspace, read, fix):
    with pytest.raises(TableError, match=f"found none; run {fix}.*, which writes it$"):
        read(workspace)


def test_the_training_frame_leaves_other_lines_out(workspace):
    append_metrics(workspace.metrics, {"stage": "ingest", "stage/seconds": 1.0})
    append_metrics(workspace.metrics, {"behaviour": "product_buy", "step": 5, "train/loss": 2.0})
    assert training_frame(workspace)[["behaviour", "step", "train/loss"]].values.tolist() == [["product_buy", 5, 2.0]]
