"""Objectives by the name that a configuration gives them (``encoders.<name>.objective``)."""

from dataclasses import replace
from typing import Literal

from conf.encoders import EncoderSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import ENCODERS, registered
from ml.objectives.all_action import AllAction
from ml.objectives.cloze import Cloze
from ml.objectives.contrastive import Contrastive
from ml.objectives.next_event import NextEvent
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import Objective
from ml.objectives.reconstruction import Reconstruction
from schemas.errors import ConfigError

OBJECTIVES: dict[str, type[Objective]] = {
    "cloze": Cloze,
    "next_item": NextItem,
    "all_action": AllAction,
    "next_event": NextEvent,
    "contrastive": Contrastive,
    "reconstruction": Reconstruction,
}

_DIRECTIONS: tuple[Literal["causal"], Literal["bidirectional"]] = ("causal", "bidirectional")


def build_objective(settings: EncoderSettings, vocabulary: VocabularyDescription) -> Objective:
    """The settings' objective; ConfigError if there is none such."""
    return registered(OBJECTIVES, settings.objective, "objective")(settings, vocabulary)


def require_encoder(name: str, settings: EncoderSettings) -> None:
    """Raise ConfigError where an encoder's architecture or objective is unknown, or its settings do not go together."""
    encoder = registered(ENCODERS, settings.architecture, f"encoders.{name}.architecture")
    objective = registered(OBJECTIVES, settings.objective, f"encoders.{name}.objective")
    encoder.require_settings(name, settings)
    objective.require_settings(name, settings)
    is_causal = encoder.reads_causally(settings)
    if is_causal and settings.inference.pooling == "mask":
        raise ConfigError(
            f"encoders.{name}: inference.pooling=mask needs an encoder that sees MASK, found a causal one; set "
            f"encoders.{name}.inference.pooling=last"
        )
    if objective.needs_causal not in (None, is_causal):
        wanted, found = _DIRECTIONS if objective.needs_causal else _DIRECTIONS[::-1]
        others = [known for known, kind in OBJECTIVES.items() if kind.needs_causal in (None, is_causal)]
        # recurrent encoders and HSTU are causal whatever attention says: to change it would not help
        follows_attention = encoder.reads_causally(replace(settings, attention=wanted)) != is_causal
        source, fix = f"architecture={settings.architecture}", "set"
        if follows_attention:
            source, fix = f"attention={settings.attention}", f"set encoders.{name}.attention={wanted}, or"
        raise ConfigError(
            f"encoders.{name}.objective={settings.objective}: expected a {wanted} encoder, found a {found} one "
            f"({source}); {fix} an objective for it: {', '.join(others)}"
        )
