"""Reads a configuration: the file, the file it is based on, then ``--set key=value``, into typed settings."""

import re
import reprlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from importlib import resources
from importlib.abc import Traversable
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from conf.encoders import RUN_WIDE, SECTIONS
from conf.mappings import COLUMNS, PRODUCTS, MappingSettings, without_secrets
from conf.pipeline import PipelineConfig
from schemas.errors import ConfigError

FOLDER: Traversable = resources.files("conf")  # a folder, or a part of the zip that `spark-submit --py-files` ships
MAPPINGS = FOLDER / "inputs"
DEFAULT = "default"

S = TypeVar("S")

_checker: Callable[[type], TypeAdapter[Any]] = cache(TypeAdapter)  # to make one takes longer than to check by it

_MOVED = {
    "inference.append_activity": "ensemble.activity",
    "inference.activity_days": "ensemble.activity_days",
}
"""Keys of earlier versions -> where they are now."""

_REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")  # to another setting; resolvers would read the environment
MAX_FILE_BYTES = 2**18
"""Of a configuration or mapping: PyYAML takes seconds for so much."""
_LOCAL_MASTER = re.compile(r"local(-cluster)?(\[[^\]]*\])?")
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "dataclass_type": "keys and values",
    "missing": "a value",
    "value_error": "{error}",  # of conf/ranges.py
}
"""pydantic's type of an error -> what was expected, with the names of its context."""
_OF_UNION = re.compile(r"(function-before|literal|constrained)\b.*|bool")
"""What pydantic puts after the place of a setting that may be of several types."""
_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+")
"""What YAML 1.1 takes for a number of base 8 or 60."""
_UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError)
"""What reading and merging a user's YAML may raise."""


def load_config(
    name_or_path: str = DEFAULT, overrides: Sequence[str] = (), inputs: str | None = None
) -> PipelineConfig:
    """Settings of ``conf/<name>.yaml`` or of a file of the user's own.

    Parameters
    ----------
    name_or_path : ``report``, ``demo``, ... (a file of this folder) or the path of a YAML file; its key
        ``base`` may name another one that it changes
    overrides : ``key=value`` with dotted keys, e.g. ``training.learning_rate=3e-4``
    inputs : a mapping, ``conf/inputs/<name>.yaml`` or a file of the user's own; the behaviours that it does not map
        are left out, and so are their encoders

    Raises
    ------
    ConfigError
        If the file is missing or not YAML, a key is unknown (the known ones are listed), or a value is
        of another type or out of range, or refers to anything but another setting.
    """
    layers, given = _read_layers(name_or_path), []
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"--set expects key=value, e.g. training.epochs=3; found {override!r}")
        setting = _parse(f"--set {override}", override, is_setting=True)
        layers.append((f"--set {override}", setting))
        given += [path for path, _ in _leaves(OmegaConf.to_container(setting))]
    values = _merge(layers)
    _refuse_moved_keys(name_or_path, values)
    # on the command line the user names the cluster; a file may be somebody else's
    if ("spark", "master") not in given:
        _require_local_master(name_or_path, values)
    if inputs:
        for override in overrides:
            # the mapping's file takes the place of all that the layers say of one: the setting would be lost
            if re.match(r"mapping\b", override):
                raise ConfigError(
                    f"--set {override}: expected no part of a mapping beside --inputs {inputs}; change it there"
                )
        values["mapping"] = {"name": Path(inputs).stem} | _merge(_read_layers(inputs, MAPPINGS))
    # without --inputs too: the config.yaml of a run holds its mapping
    if mapping := values.get("mapping"):
        owner = f"mapping {inputs!r}" if inputs else f"configuration {name_or_path!r}"
        values["mapping"] = _full_columns(owner, mapping)
        _check_mapping(owner, values["mapping"])
    items, owner = values.get("encoders") or {}, f"configuration {name_or_path!r}"
    if not isinstance(items, Mapping):
        raise ConfigError(f"encoders: expected names and their settings, found {items!r}; see conf/report.yaml")
    # without encoders first: a mistake in a section would be found again in every encoder that it completes
    checked(PipelineConfig, values | {"encoders": {}}, owner)
    # ``--set encoders.NAME=null`` leaves one out
    encoders = {name: _complete_encoder(name, item, values) for name, item in items.items() if item is not None}
    config = checked(PipelineConfig, values | {"encoders": encoders}, owner)
    return config.restricted_to(*config.mapping.behaviours) if config.mapping.inputs else config


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
        return cast(S, _checker(kind).validate_python(values))
    except ValidationError as error:
        raise ConfigError(f"{owner}: {'; '.join(_describe(kind, error))}") from error


def to_yaml(config: PipelineConfig) -> str:
    """The resolved settings as YAML that ``load_config`` reads back to the same value.

    As in the shipped files, an item of ``encoders`` holds what differs from the sections that it is completed by.
    """
    # what encoders may change for themselves comes last
    values = dict(sorted(asdict(config).items(), key=lambda setting: setting[0] in SECTIONS))
    encoders = {}
    for name, item in values["encoders"].items():
        sections = {section: _differing(item[section], values[section]) for section in SECTIONS}
        own = {key: value for key, value in _differing(item, values["model"]).items() if key not in SECTIONS}
        encoders[name] = own | {section: changed for section, changed in sections.items() if changed}
    values |= {"encoders": encoders, "mapping": _spell_as(values["mapping"], "as_", "as")}
    # not by OmegaConf.to_yaml, which takes ten times as long
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.CSafeDumper):
    """Quotes texts that begin with no letter: OmegaConf takes those such as 1e3 for numbers, which PyYAML does not."""

    def represent_text(self, text: str) -> yaml.Node:
        """A node of the text."""
        return self.represent_scalar("tag:yaml.org,2002:str", str(text), None if text[:1].isalpha() else "'")


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(str, _Dumper.represent_text)  # enumerations of texts


def known_configs(folder: Traversable = FOLDER) -> list[str]:
    """Names that ``--config`` takes without a path; of ``--inputs``, where the folder is ``MAPPINGS``."""
    # not by glob: the folder may lie in a zip, whose paths have none
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_mapping(owner: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError that names the file where its settings are no mapping."""
    if not values.get("inputs") and values.get("name"):
        known = ", ".join(known_configs(MAPPINGS))
        raise ConfigError(
            f"{owner}: expected inputs: and names of behaviours under it, found none; known mappings are {known}"
        )
    try:
        checked(MappingSettings, values, owner)
    except ConfigError as error:
        message = str(error)
        # pydantic lets the ConfigErrors of __post_init__ through, and these do not know the file
        raise ConfigError(message if message.startswith(owner) else f"{owner}: {message}") from error


def _full_columns(owner: str, mapping: Any) -> Any:
    """A mapping in which each input has what all share, and each column is written in full: ``{column: NAME}``."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{owner}: mapping: expected inputs: and names of behaviours under it, found {mapping!r}")
    inputs = mapping.get("inputs")
    if not isinstance(inputs, Mapping):
        if inputs is not None:
            raise ConfigError(f"{owner}: inputs: expected names of behaviours, each with its table, found {inputs!r}")
        return mapping
    rest = dict(mapping)
    shared = rest.pop("shared", None) or {}
    full = {}
    for name, values in inputs.items():
        if not isinstance(values, Mapping) or not isinstance(shared, Mapping):
            raise ConfigError(
                f"{owner}: inputs.{name}: expected keys and values such as path: log.csv, found {values!r}"
            )
        # the columns that events share are none of the products'
        own = {key: value for key, value in shared.items() if name != PRODUCTS or key not in COLUMNS} | dict(values)
        for key in (key for key in own if key in COLUMNS and not isinstance(own[key], str | Mapping | None)):
            raise ConfigError(
                f"{owner}: inputs.{name}.{key}: expected the name of a column, in quotes where YAML takes it for "
                f"something else, or column: and more, found {own[key]!r}"
            )
        if not isinstance(own.get("header", []), list):
            raise ConfigError(
                f"{owner}: inputs.{name}.header: expected the names of the columns in brackets, [user, time, sku], of "
                f"files that have no first line of them, found {own['header']!r}; leave it out where they have one"
            )
        short = {key: {"column": value} for key, value in own.items() if key in COLUMNS and isinstance(value, str)}
        full[name] = own | short
    return _spell_as(rest | {"inputs": full}, "as", "as_")


def _spell_as(values: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    """The values, without those that are None, with another spelling of the key ``as``, no name of Python's."""
    return {
        after if key == before else key: _spell_as(value, before, after) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _complete_encoder(name: str, item: Any, values: Mapping[str, Any]) -> Any:
    """An item of ``encoders`` with what it leaves out, from ``model`` and the sections that it may change."""
    if not isinstance(item, Mapping):
        raise ConfigError(
            f"encoders.{name}: expected keys and values such as behaviours: [{name}], found {item!r}; see "
            "conf/report.yaml"
        )
    # a section without a value, as in `training:` alone, is None in YAML
    own = {section: item.get(section) or {} for section in SECTIONS}
    for section, changed in own.items():
        if not isinstance(changed, Mapping):
            raise ConfigError(f"encoders.{name}.{section}: expected keys and values, found {changed!r}; correct it")
    shared = [key for key in RUN_WIDE if key in own["training"]]
    if shared:
        raise ConfigError(
            f"encoders.{name}.training: expected settings of one encoder, found {', '.join(shared)}, which all "
            "encoders of a run share; set them under training"
        )
    sections = {section: (values.get(section) or {}) | own[section] for section in SECTIONS}
    return (values.get("model") or {}) | dict(item) | sections


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def _require_local_master(name_or_path: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a file, which may be another's, would have Spark connect to somewhere."""
    master = _children(values.get("spark")).get("master")
    if isinstance(master, str) and not _LOCAL_MASTER.fullmatch(master):
        raise ConfigError(
            f"configuration {name_or_path!r}: spark.master: expected a local one such as local[*] in a file, found "
            f"{master!r}; name a cluster on the command line, by --set spark.master=... or spark-submit --master"
        )


def _refuse_moved_keys(name_or_path: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a configuration is of the form before encoders had names of their own."""
    moved = []
    sections = {name: section for name, section in values.items() if isinstance(section, Mapping)}
    for name, behaviour in sections.get("behaviours", {}).items():
        if isinstance(behaviour, Mapping) and "max_sequence_length" in behaviour:
            item = f"{{behaviours: [{name}], max_length: {behaviour['max_sequence_length']}}}"
            moved.append(f"behaviours.{name}.max_sequence_length is now encoders.{name}: {item}")
    for key, new_key in _MOVED.items():
        section, _, name = key.partition(".")
        if name in sections.get(section, {}):
            moved.append(f"{key} is now {new_key}")
    if moved:
        raise ConfigError(
            f"configuration {name_or_path!r} has the form of an earlier version: {'; '.join(moved)} (CHANGELOG.md)"
        )


def _read_layers(
    name_or_path: str, folder: Traversable = FOLDER, seen: tuple[str, ...] = ()
) -> list[tuple[str, DictConfig]]:
    """The name and contents of the file and of those that it is based on, the last base first."""
    if "://" in name_or_path:
        raise ConfigError(
            f"expected the name or path of a configuration, found the URL {without_secrets(name_or_path)}; copy the "
            "file to this machine"
        )
    # a plain name is a packaged configuration, whatever lies in the working directory
    path = Path(name_or_path) if _is_path(name_or_path) else folder / f"{name_or_path}.yaml"
    try:
        if isinstance(path, Path):
            # packaged files are ours, and may lie in a zip, which has no stat
            _require_small_file(path)
        name = str(path.resolve()) if isinstance(path, Path) else str(path)
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8, found {error}; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ConfigError(
            f"no configuration {name_or_path!r} ({error}): give one of {known_configs(folder)} or the path of a YAML "
            "file (with a / or ending in .yaml)"
        ) from error
    if name in seen:
        raise ConfigError(f"{path}: expected a base that is not based on this file, found {[*seen, name]}; change base")
    layer = _parse(str(path), text)
    base = cast(dict[str, Any], OmegaConf.to_container(layer)).get("base")
    if "base" in layer:
        del layer["base"]
    if not isinstance(base, str | None) or base == "" or "${" in (base or ""):
        raise ConfigError(f"{path}: base: expected the name or path of one configuration, found {base!r}; correct it")
    if base and _is_path(base):
        # from the folder of the file that names it, not from the working directory
        base = str(Path(str(path)).parent / base)
    return [*(_read_layers(base, folder, (*seen, name)) if base else []), (str(path), layer)]


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def _parse(owner: str, text: str, is_setting: bool = False) -> DictConfig:
    try:
        for event in yaml.parse(text.partition("=")[2] if is_setting else text):
            # before they are resolved: a few may stand for more values than memory holds, or for themselves
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{owner}: expected values, found a YAML alias (*name); write the value out")
            if isinstance(event, yaml.ScalarEvent) and event.style is None and _ODD_NUMBER.fullmatch(event.value):
                raise ConfigError(
                    f"{owner}: expected a number as it is read, found {event.value}, which YAML takes for another "
                    "(014 is 12, 1:30 is 90); write it without leading zeros and colons, or text in quotes"
                )
        layer = OmegaConf.from_dotlist([text]) if is_setting else OmegaConf.load(StringIO(text))
    except _UNREADABLE as error:
        raise ConfigError(f"{owner} is not YAML that settings can have: {' '.join(str(error).split())}") from error
    if not isinstance(layer, DictConfig) or not layer:
        found = "a list" if layer else "none"
        raise ConfigError(f"{owner}: expected keys and values at the top level, found {found}")
    for path, value in _leaves(OmegaConf.to_container(layer)):
        key = ".".join(path)
        # texts made of references, each made of others, would double with every line
        if isinstance(value, str) and "${" in value and not _REFERENCE.fullmatch(value):
            raise ConfigError(
                f"{owner}: {key}: expected a value or a reference to another setting such as ${{training.epochs}}, "
                f"found {value!r}; write the value itself"
            )
        if value == "???":  # OmegaConf takes it for a value to come, and leaves the setting as it was
            raise ConfigError(f"{owner}: {key}: expected a value, found ???; write one, or leave the setting out")
    return layer


def _children(values: Any) -> dict[str, Any]:
    """What a mapping or list holds, by key or number; a single value holds nothing."""
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    return {str(key): value for key, value in pairs}


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each single value, of lists too, and each empty mapping or list, and the keys that lead to it."""
    if not isinstance(values, Mapping | list) or not values:
        yield path, values
    for key, value in _children(values).items():
        yield from _leaves(value, (*path, key))


def _require_small_file(path: Path) -> None:
    """Raise OSError for a pipe or device, and for more text than settings have; ``base`` names files too."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"expected a regular file, found {path} to be none")
    if found.st_size > MAX_FILE_BYTES:
        raise OSError(f"expected at most {MAX_FILE_BYTES:,} bytes, found {found.st_size:,}")


def _merge(layers: Sequence[tuple[str, DictConfig]]) -> dict[str, Any]:
    """All settings as plain values; later layers change earlier ones, key by key."""
    merged = OmegaConf.create({})
    owner = "configuration"
    try:
        # ``owner`` is what the message below names
        for owner, layer in layers:
            _refuse_empty_sections(owner, layer, merged)
            merged = cast(DictConfig, OmegaConf.merge(merged, layer))
        owner = "a reference between settings"
        _refuse_references_to_sections(merged)
        return cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except _UNREADABLE as error:
        # OmegaConf's further lines name its own types
        reason, key = str(error).partition("\n")[0], getattr(error, "full_key", None)
        raise ConfigError(f"{owner}: {f'{key}: ' if key else ''}{reason}; correct it") from error


def _refuse_empty_sections(owner: str, layer: DictConfig, merged: DictConfig) -> None:
    """Raise ConfigError for ``{}`` where there are settings: keys are merged, so that it would change nothing."""
    for path, value in _leaves(OmegaConf.to_container(layer)):
        key = ".".join(path)
        if value == {} and path and (held := OmegaConf.select(merged, key)):  # a file of `base` alone has no path
            out = " (null leaves one out)" if key == "encoders" else ""
            raise ConfigError(
                f"{owner}: {key}: expected keys and values, found {{}}, which leaves {list(held)} as they are; name "
                f"those to change{out}"
            )


def _refuse_references_to_sections(merged: DictConfig) -> None:
    """Raise ConfigError where a reference leads to several values: sections of references to sections would double."""
    values = OmegaConf.to_container(merged)
    for path, value in _leaves(values):
        if isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
            dots, name = reference.groups()
            target: Any = values
            for key in (*path[: len(path) - len(dots) if dots else 0], *name.split(".")):
                target = _children(target).get(key)
            if isinstance(target, Mapping | list):
                raise ConfigError(
                    f"{'.'.join(path)}: expected a reference to one value, found {value}; write the values themselves"
                )


def _describe(settings: type, error: ValidationError) -> list[str]:
    """What was expected and found at each setting that is refused."""
    unknown: list[str] = []
    expected: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for problem in error.errors():
        location = problem["loc"]
        if problem["type"] == "unexpected_keyword_argument":
            unknown.append(_describe_unknown(settings, location))
            continue
        if location and _OF_UNION.fullmatch(str(location[-1])):
            location = location[:-1]
        key = ".".join(map(str, location))
        words = problem["msg"]
        if problem["type"] in _EXPECTED:
            words = _EXPECTED[problem["type"]].format(**problem.get("ctx", {}))
        # of a union pydantic reports each type that it is not: one setting, one line
        expected.setdefault(key, []).append(words)
        found[key] = problem["input"]
    return unknown + [
        f"{key}: expected {' or '.join(words)}, found {_shown(found[key])}" for key, words in expected.items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 1_000:  # Python writes no number of more than 4,300 digits
        return f"a number of {value.bit_length():,} bits"
    return reprlib.repr(value)


def _describe_unknown(settings: type, location: tuple[int | str, ...]) -> str:
    key = ".".join(map(str, location))
    hint: Any = settings
    for name in location[:-1]:  # a step through a mapping leads to the class of its values
        hint = get_type_hints(hint)[str(name)] if is_dataclass(hint) else get_args(hint)[1]
        if type(None) in get_args(hint):
            hint = get_args(hint)[0]
    # the field `as_` is the key `as`
    return f"unknown key {key!r}, known here are {[field.name.rstrip('_') for field in fields(hint)]}"
