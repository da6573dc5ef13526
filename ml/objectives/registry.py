"""Objectives by the name that a configuration gives them (``encoders.<name>.objective``)."""

from conf.encoders import EncoderSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import ENCODERS, registered
from ml.objectives.cloze import Cloze
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import Objective
from schemas.errors import ConfigError

OBJECTIVES: dict[str, type[Objective]] = {"cloze": Cloze, "next_item": NextItem}


def build_objective(settings: EncoderSettings, vocabulary: VocabularyDescription) -> Objective:
    """The settings' objective; ConfigError if there is none such."""
    return registered(OBJECTIVES, settings.objective, "objective")(settings, vocabulary)


def require_encoder(name: str, settings: EncoderSettings) -> None:
    """Raise ConfigError where an encoder's architecture or objective is unknown, or the two do not go together."""
    encoder = registered(ENCODERS, settings.architecture, f"encoders.{name}.architecture")
    objective = registered(OBJECTIVES, settings.objective, f"encoders.{name}.objective")
    is_causal = encoder.reads_causally(settings)
    if objective.needs_causal not in (None, is_causal):
        wanted, found = ("causal", "bidirectional") if objective.needs_causal else ("bidirectional", "causal")
        others = [known for known, kind in OBJECTIVES.items() if kind.needs_causal in (None, is_causal)]
        raise ConfigError(
            f"encoders.{name}.objective={settings.objective}: expected a {wanted} encoder, found a {found} one "
            f"(attention={settings.attention}); set encoders.{name}.attention={wanted}, or an objective for it: "
            f"{', '.join(others)}"
        )
