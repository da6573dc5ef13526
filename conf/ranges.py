"""The range check that the settings of made data share."""

from collections.abc import Mapping
from typing import Any

from schemas.errors import ConfigError


def require_within(settings: Any, owner: str, least: Mapping[str, float], most: Mapping[str, float]) -> None:
    """Raise ConfigError for the first setting below its ``least`` or above its ``most``.

    Parameters
    ----------
    owner : whose settings they are, as the message names it, e.g. ``the shop``
    """
    for name, bound in least.items():
        if (value := getattr(settings, name)) < bound:
            raise ConfigError(f"{owner}'s {name} must be at least {bound}; found {value}")
    for name, bound in most.items():
        if (value := getattr(settings, name)) > bound:
            raise ConfigError(f"{owner}'s {name} must be at most {bound}; found {value}")
