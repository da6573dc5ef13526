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

if __name__ == "__main__":
    # a table of contents stays as it was read
    zipimport.zipimporter.invalidate_caches = lambda _: None  # type: ignore[assignment,method-assign]
    gc.freeze()  # what was imported so far is searched for garbage no more
    daemon.manager()
