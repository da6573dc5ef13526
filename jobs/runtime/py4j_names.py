"""py4j asks the JVM what a name is at every use, and for each of PySpark's names the JVM searches all of Spark's jars.

Upstream: https://github.com/py4j/py4j/pull/596, merged in May 2026.
Ends with: a PySpark whose py4j has it; Spark 3.5 and 4.0 carry 0.10.9.7 and 0.10.9.9.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from py4j.java_gateway import JavaClass, JavaPackage, JVMView

Find = Callable[[Any, str], Any]


def remember_names() -> None:
    """Have py4j ask once for each package and class; a second call changes nothing."""
    for owner in (JVMView, JavaPackage):
        if not hasattr(owner.__getattr__, "__wrapped__"):
            owner.__getattr__ = _remembering(owner.__getattr__)


def _remembering(find: Find) -> Find:
    @wraps(find)
    def find_once(self: Any, name: str) -> Any:
        found = find(self, name)
        # py4j takes a class of a jar that is not there yet for a package: such a name is asked for again
        if isinstance(found, JavaClass) or (isinstance(found, JavaPackage) and name.islower()):
            vars(self)[name] = found
        return found

    return find_once
