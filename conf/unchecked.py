"""Stand-ins for the names that ``conf.settings`` takes from pydantic, where only torch and numpy are installed.

Settings made by these keep their names, defaults and claims on each other; the bounds of single numbers go unchecked.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

PositiveInt = NonNegativeInt = int
PositiveFloat = NonNegativeFloat = float
ConfigDict = dict


def Field(**bounds: float) -> str:  # noqa: N802
    """What the bounds are; nobody reads them."""
    return str(bounds)


def dataclass(*, frozen: bool, config: dict[str, Any]) -> Callable[[type], type]:
    """A plain dataclass."""
    return dataclasses.dataclass(frozen=frozen)
