"""Settings of the Spark session."""

from dataclasses import dataclass

from conf.ranges import PositiveInt, Settings


@dataclass(frozen=True)
class SparkSettings(Settings):
    """The session, where spark-submit or the platform has not made one."""

    master: str = "local[*]"
    driver_memory: str = "4g"
    shuffle_partitions: PositiveInt = 200
