"""Small pandas frames of a finished run, for notebooks and the Python prompt.

A table is read by ``jobs.storage.delta_tables.read_table``.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.evaluation.ablation import RUN_ABLATE, AblationFile
from jobs.evaluation.comparison import RUN_PROBE, ScoresFile
from jobs.storage.delta_tables import read_table
from jobs.storage.files import read_json
from jobs.storage.metrics_log import read_metrics
from jobs.storage.workspace import Workspace
from ml.inference.top_k import nearest_items
from ml.training.checkpoint import load_model
from schemas.columns import BEHAVIOUR, CATEGORY, KEY, SKU, TOKEN_ID
from schemas.errors import InputError
from schemas.tables import PRODUCT_PROPERTIES, VOCABULARIES
from schemas.tasks import TASKS
from schemas.tokens import FIRST_ITEM


def scores_frame(workspace: Workspace, figure: str = "score") -> pd.DataFrame:
    """One figure of ``scores.json``: a row per entry, a column per task that has it.

    Parameters
    ----------
    figure : ``score``, ``auroc``, ``novelty``, ``diversity``; with repeats also ``mean``, ``std``

    Raises
    ------
    TableError
        If there are no scores yet, or their file is damaged.
    """
    return _by_task(read_json(workspace.out / "scores.json", ScoresFile, RUN_PROBE), figure)


def ablation_frame(workspace: Workspace, figure: str = "score") -> pd.DataFrame:
    """One figure of ``ablation.json``, as ``scores_frame``: a row per variant of the profile.

    Raises
    ------
    TableError
        If ``ubp ablate`` has not run yet, or its file is damaged.
    """
    variants = read_json(workspace.out / "ablation.json", AblationFile, RUN_ABLATE)["variants"]
    return _by_task({variant["name"]: variant["scores"] for variant in variants}, figure)


def training_frame(workspace: Workspace) -> pd.DataFrame:
    """The lines of ``metrics.jsonl`` of training, oldest first: a row per begin, interval or validation."""
    return pd.DataFrame([line for line in read_metrics(workspace.metrics) if BEHAVIOUR in line])


def sku_categories(spark: SparkSession, workspace: Workspace) -> "pd.Series[float]":
    """The category of each sku, by its key in a vocabulary of skus; NaN where it is not known."""
    products = read_table(spark, workspace, PRODUCT_PROPERTIES).select(SKU, CATEGORY).collect()
    return pd.Series({str(row[SKU]): row[CATEGORY] for row in products}, dtype="float64")


def frequent_items(spark: SparkSession, workspace: Workspace, behaviour: str, n: int = 5) -> list[str]:
    """Keys of a behaviour's ``n`` most frequent items."""
    # token ids count up by falling frequency
    rows = _vocabulary(spark, workspace, behaviour).where(F.col(TOKEN_ID) < FIRST_ITEM + n).orderBy(TOKEN_ID)
    return [row[KEY] for row in rows.collect()]


def neighbours_frame(
    spark: SparkSession, workspace: Workspace, behaviour: str, keys: Sequence[str], k: int = 10
) -> pd.DataFrame:
    """The items nearest to some items, by the item table of the behaviour's trained model.

    Parameters
    ----------
    keys : of the items, as the table ``vocabularies`` has them
    k : neighbours of each

    Returns
    -------
    A row per item and neighbour: ``key``, ``place`` (from 1), ``neighbour`` (its key), ``similarity`` (cosine).

    Raises
    ------
    InputError
        If a key is not in the behaviour's vocabulary.
    ModelError
        If the behaviour has no trained model.
    """
    vocabulary = _vocabulary(spark, workspace, behaviour)
    rows = vocabulary.where(F.col(KEY).isin(list(keys))).collect()
    ids = {row[KEY]: row[TOKEN_ID] for row in rows}
    unknown = [key for key in keys if key not in ids]
    if unknown:
        raise InputError(
            f"expected items of the vocabulary of {behaviour}, found {unknown[0]!r}, which it lacks; take keys "
            f"from the table {VOCABULARIES.name!r}"
        )
    model, _ = load_model(workspace.model(behaviour))
    items, similarity = nearest_items(model, torch.tensor([ids[key] for key in keys], dtype=torch.int64), k)
    named = vocabulary.where(F.col(TOKEN_ID).isin(sorted(set(items.flatten().tolist())))).collect()
    key_of = {row[TOKEN_ID]: row[KEY] for row in named}
    return pd.DataFrame(
        [
            {"key": key, "place": 1 + place, "neighbour": key_of[item], "similarity": score}
            for key, found, scores in zip(keys, items.tolist(), similarity.tolist(), strict=True)
            for place, (item, score) in enumerate(zip(found, scores, strict=True))
        ]
    )


def _vocabulary(spark: SparkSession, workspace: Workspace, behaviour: str) -> DataFrame:
    return read_table(spark, workspace, VOCABULARIES).where(F.col(BEHAVIOUR) == behaviour)


def _by_task(results: dict[str, dict[str, dict[str, float]]], figure: str) -> pd.DataFrame:
    columns = [task for task in TASKS if any(figure in tasks.get(task, {}) for tasks in results.values())]
    cells = {name: {task: tasks.get(task, {}).get(figure) for task in columns} for name, tasks in results.items()}
    return pd.DataFrame.from_dict(cells, orient="index", columns=columns, dtype="float64")
