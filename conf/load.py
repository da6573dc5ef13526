"""Reads a configuration: the file, the file it is based on, then ``--set key=value``, into typed settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from conf.encoders import RUN_WIDE, SECTIONS
from conf.pipeline import PipelineConfig
from schemas.errors import ConfigError

FOLDER = resources.files("conf")  # a folder, or a part of the zip that `spark-submit --py-files` ships
DEFAULT = "default"

S = TypeVar("S")

_MOVED = {
    "inference.append_activity": "ensemble.activity",
    "inference.activity_days": "ensemble.activity_days",
}
"""Keys of earlier versions -> where they are now."""


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
    values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(*layers), resolve=True))
    _refuse_moved_keys(name_or_path, values)
    items, owner = values.get("encoders") or {}, f"configuration {name_or_path!r}"
    # without encoders first: a mistake in a section would be found again in every encoder that it completes
    checked(PipelineConfig, values | {"encoders": {}}, owner)
    # ``--set encoders.NAME=null`` leaves one out
    encoders = {name: _complete_encoder(name, item, values) for name, item in items.items() if item is not None}
    return checked(PipelineConfig, values | {"encoders": encoders}, owner)


def checked(kind: type[S], values: Mapping[str, Any], owner: str) -> S:
    """Settings of a kind, their types and ranges checked.

    Parameters
    ----------
    owner : whose settings they are, as the message names it

    Raises
    ------
    ConfigError
        If a key is unknown, or a value is of another type or out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problems = [_describe(kind, each["loc"], each["type"], each["msg"]) for each in error.errors()]
        raise ConfigError(f"{owner}: {'; '.join(problems)}") from error


def to_yaml(config: PipelineConfig) -> str:
    """The resolved settings as YAML that ``load_config`` reads back to the same value.

    As in the shipped files, an item of ``encoders`` holds what differs from the sections that it is completed by.
    """
    values = asdict(config)
    values["encoders"] = {name: _shorten_encoder(item, values) for name, item in values["encoders"].items()}
    return OmegaConf.to_yaml(OmegaConf.create(values))


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


def _complete_encoder(name: str, item: Any, values: Mapping[str, Any]) -> Any:
    """An item of ``encoders`` with what it leaves out, from ``model`` and the sections that it may change."""
    if not isinstance(item, Mapping):
        raise ConfigError(
            f"encoders.{name}: expected keys and values such as behaviours: [{name}], found {item!r}; see "
            "conf/report.yaml"
        )
    own = {section: item.get(section) or {} for section in SECTIONS}
    shared = [key for key in RUN_WIDE if key in own["training"]]
    if shared:
        raise ConfigError(
            f"encoders.{name}.training: expected settings of one encoder, found {', '.join(shared)}, which all "
            "encoders of a run share; set them under training"
        )
    sections = {section: (values.get(section) or {}) | own[section] for section in SECTIONS}
    return (values.get("model") or {}) | dict(item) | sections


def _shorten_encoder(item: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    sections = {section: _differing(item[section], values[section]) for section in SECTIONS}
    own = {key: value for key, value in _differing(item, values["model"]).items() if key not in SECTIONS}
    return own | {section: changed for section, changed in sections.items() if changed}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def _refuse_moved_keys(name_or_path: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a configuration is of the form before encoders had names of their own."""
    moved = []
    for name, behaviour in (values.get("behaviours") or {}).items():
        if isinstance(behaviour, Mapping) and "max_sequence_length" in behaviour:
            item = f"{{behaviours: [{name}], max_length: {behaviour['max_sequence_length']}}}"
            moved.append(f"behaviours.{name}.max_sequence_length is now encoders.{name}: {item}")
    for key, place in _MOVED.items():
        section, _, name = key.partition(".")
        if name in (values.get(section) or {}):
            moved.append(f"{key} is now {place}")
    if moved:
        raise ConfigError(
            f"configuration {name_or_path!r} has the form of an earlier version: {'; '.join(moved)} (CHANGELOG.md)"
        )


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


def _describe(settings: type, location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "unexpected_keyword_argument":
        return f"{key}: {message}"
    return f"unknown key {key!r}, known here are {_known_keys(settings, location[:-1])}"


def _known_keys(settings: type, location: tuple[int | str, ...]) -> list[str]:
    """Keys of the settings at a path; a step through a mapping leads to the class of its values."""
    hint: Any = settings
    for name in location:
        hint = get_type_hints(hint)[str(name)] if is_dataclass(hint) else get_args(hint)[1]
    return [field.name for field in fields(hint)]
