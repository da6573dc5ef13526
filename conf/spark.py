"""Settings of the Spark session."""

import re
from dataclasses import dataclass

from conf.ranges import PositiveInt, Settings, require


@dataclass(frozen=True)
class SparkSettings(Settings):
    """The session, where spark-submit or the platform has not made one."""

    master: str = "local[*]"
    driver_memory: str = "4g"
    """Of the JVM that the driver starts: a whole number and ``k``, ``m``, ``g`` or ``t``."""
    shuffle_partitions: PositiveInt = 200

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[1-9][0-9]*[kmgt]", self.driver_memory, re.IGNORECASE) is not None,
            f"spark.driver_memory: expected a whole number and k, m, g or t, as 4g, found {self.driver_memory!r}",
        )
