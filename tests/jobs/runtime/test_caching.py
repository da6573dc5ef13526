"""What a stage caches goes when it ends, well or not; what others of the application cache stays."""

import contextlib
from types import ModuleType

import pytest
from eval_tables import SMALL, write_shop
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from jobs.stages import split, targets, vocabulary
from jobs.storage.delta_tables import TableCommit, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms import ranks
from schemas.errors import OutputError
from schemas.tables import CLIENTS, TARGETS, VOCABULARIES, TableSchema

BUYS = [(1, "2022-08-01", 70), (1, "2022-09-02", 70), (2, "2022-09-03", 80), (2, "2022-09-28", 80)]


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("shop")
    workspace = Workspace(folder / "out", folder)
    workspace.prepare()
    write_shop(spark, workspace, SMALL, products=[(70, 7, None, None), (80, 8, None, None)], product_buy=BUYS)
    split.run(spark, SMALL, workspace)
    return workspace


@pytest.mark.parametrize("is_writable", [True, False])
@pytest.mark.parametrize(("stage", "last"), [(split, CLIENTS), (vocabulary, VOCABULARIES), (targets, TARGETS)])
def test_a_stage_lets_its_own_frames_go_and_no_others(
    spark: SparkSession,
    shop: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    stage: ModuleType,
    last: TableSchema,
    is_writable: bool,
) -> None:
    def write(frame: DataFrame, workspace: Workspace, table: TableSchema, **options: int) -> TableCommit:
        if table is last and not is_writable:
            raise OutputError("no room")
        return write_table(frame, workspace, table, **options)

    def persist(frame: DataFrame, *level: StorageLevel) -> DataFrame:
        cached.append(frame)
        return keep(frame, *level)

    kind = type(spark.range(1))  # Spark 4's DataFrame is the base of it
    keep, cached = kind.persist, list[DataFrame]()
    spark.catalog.clearCache()
    of_another_stage = spark.range(7).persist()
    monkeypatch.setattr(stage, "write_table", write)
    monkeypatch.setattr(kind, "persist", persist)
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 1)  # else the few items are numbered without a cache
    with contextlib.nullcontext() if is_writable else pytest.raises(OutputError, match="no room"):
        stage.run(spark, SMALL, shop)
    assert cached
    assert of_another_stage.storageLevel.useMemory
    of_another_stage.unpersist()
    assert spark._jsparkSession.sharedState().cacheManager().isEmpty()
