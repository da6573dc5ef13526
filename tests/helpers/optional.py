"""What some sets of versions lack (requirements-next.in): tests of it are skipped there."""

from importlib.metadata import version
from importlib.util import find_spec

import pytest

HAS_HOROVOD, HAS_PETASTORM = (find_spec(name) is not None for name in ("horovod", "petastorm"))
# before, its order of row groups was another one
HAS_OUR_ORDER = HAS_PETASTORM and version("petastorm") >= "0.13"
NEEDS_OUR_ORDER = pytest.mark.skipif(not HAS_OUR_ORDER, reason="there is no Petastorm of the order that arrow has")
NEEDS_HOROVOD = pytest.mark.skipif(not HAS_HOROVOD, reason="there is no Horovod")
NEEDS_PETASTORM = pytest.mark.skipif(not HAS_PETASTORM, reason="there is no Petastorm")
LAUNCHERS = [pytest.param("horovod", marks=NEEDS_HOROVOD), "torch"]
READERS = [pytest.param("petastorm", marks=NEEDS_PETASTORM), "arrow"]
