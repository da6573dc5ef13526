import numpy as np
from eval_tables import purchases
from pyspark.testing import assertDataFrameEqual

from jobs.transforms.clients import clients_in_order, clients_with_events, with_activity
from schemas.tables import CLIENTS


def test_listed_clients_keep_the_order_of_the_list(spark):
    clients = clients_in_order(spark, np.array([30, 10, 20]))
    assertDataFrameEqual(
        clients, spark.createDataFrame([(0, 30), (1, 10), (2, 20)], "position bigint, client_id bigint")
    )


def test_derived_clients_are_those_with_an_event_in_any_behaviour_by_id(spark, cached):
    buys = purchases(spark, [(9, "2022-06-01", 1), (9, "2022-06-02", 1)])
    visits = purchases(spark, [(2, "2022-06-01", 1), (9, "2022-06-01", 1)]).withColumnRenamed("sku", "url")
    expected = spark.createDataFrame([(0, 2), (1, 9)], "position bigint, client_id bigint")
    assertDataFrameEqual(clients_with_events([buys, visits], cached), expected)


def test_a_client_with_several_purchases_is_active_once(spark):
    clients = clients_in_order(spark, np.array([5, 6]))
    bought = purchases(spark, [(6, "2022-06-01", 1), (6, "2022-06-02", 1), (7, "2022-06-02", 1)])
    assertDataFrameEqual(
        with_activity(clients, bought), spark.createDataFrame([(0, 5, False), (1, 6, True)], CLIENTS.ddl)
    )
