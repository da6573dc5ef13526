"""The model folder: ``weights.safetensors``, ``config.json`` and ``metrics.json``; nothing in it is executed."""

import json
import shutil
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file

from conf.encoders import EncoderSettings
from ml.compat.meta_init import NoRandomInit
from ml.data.vocabulary import VocabularyDescription
from ml.files.atomic import replace_folder
from ml.files.regular import require_regular
from ml.files.tensor_file import write_tensors
from ml.models.protocol import SequenceEncoder
from ml.models.registry import build_encoder
from schemas.errors import ConfigError, ModelError

WEIGHTS, CONFIG, METRICS = "weights.safetensors", "config.json", "metrics.json"
MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class ModelCard:
    """Metadata saved with the weights.

    Attributes
    ----------
    encoder : its name in the configuration
    vocabulary_fingerprint : another one means that a token id is another item
    sequences_version : version of the Delta table ``sequences`` that it was trained on
    """

    encoder: str
    settings: EncoderSettings
    vocabulary: VocabularyDescription
    vocabulary_fingerprint: str
    sequences_version: int


def save_model(folder: Path, model: SequenceEncoder, card: ModelCard, metrics: dict[str, Any]) -> None:
    """Replace the model folder by this model.

    It is written beside the folder and then renamed: whoever reads the folder finds a whole model or none. One
    process writes at a time.
    """
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    # heads are for training alone: whoever loads the model knows no objective
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("heads.")}
    write_tensors(new / WEIGHTS, weights)
    # item attributes that the encoder reads are among its weights, as buffers
    _write_json(new / CONFIG, asdict(replace(card, vocabulary=card.vocabulary.without_arrays())))
    _write_json(new / METRICS, metrics)
    replace_folder(new, folder)


def load_model(folder: Path, expected_fingerprint: str | None = None) -> tuple[SequenceEncoder, ModelCard]:
    """The model of a folder, for inference, with its weights mapped from the file, and its card.

    Parameters
    ----------
    expected_fingerprint : of the vocabulary that the caller's token ids come from; None where none are at hand

    Raises
    ------
    ModelError
        If the folder is missing or damaged, or the model belongs to another vocabulary or to an architecture that is
        not registered.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}; run train first")
    card = _read_card(folder)
    if expected_fingerprint is not None and card.vocabulary_fingerprint != expected_fingerprint:
        raise ModelError(
            f"{folder}: the model belongs to another vocabulary: it was trained on {card.vocabulary_fingerprint}, "
            f"the tables hold {expected_fingerprint}; its token ids would mean other items: run train again"
        )
    try:
        # without memory or random numbers for weights that the next lines replace by the file's
        with torch.device("meta"), NoRandomInit():
            model = build_encoder(card.settings, card.vocabulary)
    except ConfigError as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error
    try:
        # assign: parameters become views of the mapped file, which is read page by page when it is used
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} is missing, damaged or not of {CONFIG}'s shape; run train again"
        ) from error
    return model.eval(), card


def _read_card(folder: Path) -> ModelCard:
    """The card of a model whose layers can be built in no time, and whose vocabulary its weights can be of."""
    path, weights = folder / CONFIG, folder / WEIGHTS
    try:
        require_regular(path, MAX_CONFIG_BYTES)
        card = _rebuilt(ModelCard, json.loads(path.read_text(encoding="utf-8")))
        # a plain dataclass checks no types, and the folder may be another's
        TypeAdapter(EncoderSettings).validate_python(asdict(card.settings))  # types and ranges
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, ConfigError) as error:
        raise ModelError(f"{path} is missing or is no model's configuration ({error}); run train again") from error
    try:
        require_regular(weights)
        n_bytes = weights.stat().st_size
    except OSError as error:
        raise ModelError(
            f"{weights} is missing, damaged or not of {CONFIG}'s shape ({error}); run train again"
        ) from error
    # each token has a byte or more there; building some tables takes memory for each
    n_parts = card.settings.table_splits if card.settings.table == "product" else 1
    if not 0 < card.vocabulary.n_tokens * n_parts <= n_bytes:
        raise ModelError(
            f"{weights} is missing, damaged or not of {CONFIG}'s shape: expected {card.vocabulary.n_tokens:,} tokens, "
            f"found {n_bytes:,} bytes; run train again"
        )
    return card


def _rebuilt(kind: Any, values: Any) -> Any:
    """The dataclass that ``asdict`` and JSON took apart: tuples became lists there."""
    if not is_dataclass(kind):
        return tuple(values) if isinstance(values, list) else values
    # a key that is no field is refused by the class itself: TypeError
    kinds = {field.name: field.type for field in fields(kind)}
    return kind(**{name: _rebuilt(kinds.get(name), value) for name, value in values.items()})  # type: ignore[operator]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
