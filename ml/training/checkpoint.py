"""The model folder: ``weights.safetensors``, ``config.json`` and ``metrics.json``; nothing in it is executed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from conf.encoders import ModelSettings
from ml.files.atomic import replace_folder
from ml.files.tensor_file import write_tensors
from ml.models.transformer import Bert4Rec
from schemas.errors import ModelError

WEIGHTS, CONFIG, METRICS = "weights.safetensors", "config.json", "metrics.json"


@dataclass(frozen=True)
class ModelCard:
    """What a model's weights are worthless without.

    Attributes
    ----------
    behaviour : it was trained on
    model : its shape
    n_tokens : rows of its item table
    max_length : the longest sequence it reads
    vocabulary_fingerprint : of the vocabulary that its token ids mean items of
    sequences_version : version of the Delta table ``sequences`` that it was trained on
    """

    behaviour: str
    model: ModelSettings
    n_tokens: int
    max_length: int
    vocabulary_fingerprint: str
    sequences_version: int


def save_model(folder: Path, model: Bert4Rec, card: ModelCard, metrics: dict[str, Any]) -> None:
    """Replace the model folder by this model.

    It is written beside the folder and then renamed: whoever reads the folder finds a whole model or none. One
    process writes at a time.
    """
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write_tensors(new / WEIGHTS, model.state_dict())
    _write_json(new / CONFIG, asdict(card))
    _write_json(new / METRICS, metrics)
    replace_folder(new, folder)


def load_model(folder: Path, expected_fingerprint: str | None = None) -> tuple[Bert4Rec, ModelCard]:
    """The model of a folder, for inference, with its weights mapped from the file, and its card.

    Parameters
    ----------
    folder : as ``save_model`` wrote it
    expected_fingerprint : of the vocabulary that the caller's token ids come from; None where none are at hand

    Raises
    ------
    ModelError
        If the folder is missing or damaged, or the model belongs to another vocabulary.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}; run train first")
    card = _read_card(folder / CONFIG)
    if expected_fingerprint is not None and card.vocabulary_fingerprint != expected_fingerprint:
        raise ModelError(
            f"{folder}: the model belongs to another vocabulary: it was trained on {card.vocabulary_fingerprint}, "
            f"the tables hold {expected_fingerprint}; its token ids would mean other items: run train again"
        )
    with torch.device("meta"), _NoRandomStart():
        model = Bert4Rec(card.model, card.n_tokens, card.max_length)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} is missing, damaged or not of {CONFIG}'s shape; run train again"
        ) from error
    return model.eval(), card


class _NoRandomStart(TorchFunctionMode):
    """Leaves new weights as they are: a draw on the meta device imports sympy, 2.7 s in each inference process."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _read_card(path: Path) -> ModelCard:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return ModelCard(**{**fields, "model": ModelSettings(**fields["model"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is missing or is no model's configuration ({error}); run train again") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
