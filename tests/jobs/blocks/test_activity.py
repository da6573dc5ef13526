"""The block ``activity``: what is counted, of whom, and back from when."""

from datetime import datetime

import numpy as np
from eval_tables import typed
from pyspark.sql import SparkSession

from jobs.blocks.activity import client_activity
from schemas.tables import CLIENTS

CUTOFF = datetime(2022, 7, 1)


def test_events_are_counted_in_all_and_of_the_last_days_before_the_cutoff(spark: SparkSession) -> None:
    times = {
        50: ["2022-06-29 12:00:00", "2022-06-20", "2022-01-01", "2022-07-01"],
        10: ["2022-06-24"],
        77: ["2022-06-24"],
    }
    ddl = "client_id bigint, timestamp timestamp_ntz, sku bigint"
    buys = typed(spark, [(client, time, 1) for client, own in times.items() for time in own], ddl)
    visits = typed(spark, [(50, "2022-06-23 23:59:59", 1), (20, "2022-06-30 23:59:59", 1)], ddl)
    clients = spark.createDataFrame([(place, id_, True) for place, id_ in enumerate((50, 10, 40, 20))], CLIENTS.ddl)

    block, vectors = client_activity({"product_buy": buys, "page_visit": visits}, clients, CUTOFF, [7, 14])

    columns = [f"{behaviour}/{span}" for behaviour in ("product_buy", "page_visit") for span in ("all", "7d", "14d")]
    assert (block.name, list(block.columns)) == ("activity", columns)
    counts = {row["client_id"]: np.expm1(row["vector"]).round(4).tolist() for row in vectors.collect()}
    assert counts == {50: [3, 1, 2, 1, 0, 1], 10: [1, 1, 1, 0, 0, 0], 20: [0, 0, 0, 1, 1, 1]}
