"""What Spark starts its Python workers from (``spark.python.daemon.module``): the usual daemon, made quick.

Between two tasks a worker reads the tables of contents of all archives on its path anew, Spark's own jar among them
(``importlib.invalidate_caches``), and searches every object of every module for garbage (``gc.collect``): more
work than most of our tasks do. The archives of a running application do not change, so they are
read once; modules that all workers need are imported before the workers fork, and are no garbage.
"""

import gc
import zipimport

import numpy  # noqa: F401
import pandas  # noqa: F401
import pyarrow.compute  # noqa: F401
import pyspark.sql.pandas.serializers
import pyspark.worker  # noqa: F401
from pyspark import daemon


def _keep(importer: zipimport.zipimporter) -> None:
    """Leave the table of contents of an archive as it was read."""


if __name__ == "__main__":
    zipimport.zipimporter.invalidate_caches = _keep  # type: ignore[assignment,method-assign]
    gc.freeze()
    daemon.manager()
