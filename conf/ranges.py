"""The range of a setting, which stands at its field, and the base of all settings.

Settings are plain dataclasses, so that ``ml`` runs with torch and numpy alone. Their types and ranges are checked when
a configuration is loaded (``conf.load``); how they go together (``__post_init__``) is checked always.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from schemas.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have; a bound that is None does not bind.

    Attributes
    ----------
    ge, gt, le : greater or equal, greater, less or equal, as pydantic names them
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """The schema of the field's type, with these bounds: what pydantic asks of an annotation."""
        # here: ml reads its settings with torch and numpy alone
        from pydantic import BeforeValidator

        # in the schema of the type itself, so that pydantic reports a number out of range by the bound that it breaks
        bounds = {name: bound for name, bound in vars(self).items() if bound is not None}
        bounded = {**handler(source), **bounds}
        return BeforeValidator(_refuse_truth).__get_pydantic_core_schema__(source, lambda _: bounded)  # type: ignore[arg-type]


def _refuse_truth(value: Any) -> Any:
    """The value itself; ``true`` is no 1: pydantic would take it for one."""
    if isinstance(value, bool):
        raise ValueError("a number")  # not a TypeError, which pydantic would let through
    return value


PositiveInt = Annotated[int, Range(gt=0)]
NonNegativeInt = Annotated[int, Range(ge=0)]
Days = Annotated[int, Range(gt=0, le=3_650)]
"""Whole days of a window: ten years back from any time of the data is still a time."""
Seed = Annotated[int, Range(ge=0, le=2**63 - 1)]
"""Of all generators of random numbers; torch takes no larger one."""
PositiveFloat = Annotated[float, Range(gt=0.0)]
NonNegativeFloat = Annotated[float, Range(ge=0.0)]
Share = Annotated[float, Range(ge=0.0, le=1.0)]


class Settings:
    """Base of all settings: an unknown key and a number that is not finite are refused when they are loaded."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}


def require(claim: bool, message: str) -> None:
    """Raise ConfigError with the message unless the claim holds."""
    if not claim:
        raise ConfigError(message)
