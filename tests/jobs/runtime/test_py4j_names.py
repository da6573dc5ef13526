"""The names that py4j remembers."""

from py4j.java_gateway import JavaPackage
from pyspark.sql import SparkSession


def test_a_package_and_a_class_are_asked_for_once_and_a_class_that_is_not_there_each_time(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    assert jvm.org.apache is jvm.org.apache
    assert jvm.functions is jvm.functions
    assert jvm.functions._fqn == "org.apache.spark.sql.functions"
    # a jar may bring it later
    assert isinstance(jvm.org.apache.NotThereYet, JavaPackage)
    assert jvm.org.apache.NotThereYet is not jvm.org.apache.NotThereYet
