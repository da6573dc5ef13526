"""Reads a configuration: the file, the file it is based on, then ``--set key=value``, into typed settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from conf.settings import PipelineConfig
from schemas.errors import ConfigError

FOLDER = resources.files("conf")  # a folder, or a part of the zip that `spark-submit --py-files` ships
DEFAULT = "default"


def load_config(name_or_path: str = DEFAULT, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Settings of ``conf/<name>.yaml`` or of a file of the user's own.

    Parameters
    ----------
    name_or_path : ``report``, ``demo``, ... (a file of this folder) or the path of a YAML file; its key
        ``base`` may name another one that it changes
    overrides : ``key=value`` with dotted keys, e.g. ``training.learning_rate=3e-4``

    Raises
    ------
    ConfigError
        If the file is missing or not YAML, a key is unknown (the known ones are listed), or a value is
        of another type or out of range.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"--set expects key=value, e.g. training.epochs=3; found {override!r}")
    layers = [*_read_layers(name_or_path), OmegaConf.from_dotlist(list(overrides))]
    values = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=True)
    try:
        return TypeAdapter(PipelineConfig).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(_describe(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors())
        raise ConfigError(f"configuration {name_or_path!r}: {problems}") from error


def to_yaml(config: PipelineConfig) -> str:
    """The resolved settings as YAML that ``load_config`` reads back to the same value."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def known_configs() -> list[str]:
    """Names that ``--config`` takes without a path."""
    return sorted(path.name.removesuffix(".yaml") for path in FOLDER.iterdir() if path.name.endswith(".yaml"))


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read_layers(name_or_path: str) -> list[DictConfig]:
    layer = _read_yaml(_find(name_or_path))
    base = layer.pop("base", None)
    return [*(_read_layers(base) if base else []), layer]


def _find(name_or_path: str) -> Traversable:
    for path in (Path(name_or_path), FOLDER / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"no configuration {name_or_path!r}: give one of {known_configs()} or the path of a YAML file")


def _read_yaml(path: Traversable) -> DictConfig:
    try:
        layer = OmegaConf.load(StringIO(path.read_text(encoding="utf-8")))
    except YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"{path}: expected keys and values at the top level, found a list")
    return layer


def _describe(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "unexpected_keyword_argument":
        return f"{key}: {message}"
    return f"unknown key {key!r}, known here are {_known_keys(location[:-1])}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the settings at a path; a step through a mapping leads to the class of its values."""
    hint: Any = PipelineConfig
    for name in location:
        hint = get_type_hints(hint)[str(name)] if is_dataclass(hint) else get_args(hint)[1]
    return [field.name for field in fields(hint)]
