"""Encoders by the name that a configuration gives them (``encoders.<name>.architecture``)."""

from collections.abc import Mapping
from typing import TypeVar

from conf.encoders import EncoderSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.hstu import Hstu
from ml.models.protocol import SequenceEncoder
from ml.models.recurrent import Gru, Lstm
from ml.models.transformer import Transformer
from schemas.errors import ConfigError

ENCODERS: dict[str, type[SequenceEncoder]] = {"transformer": Transformer, "gru": Gru, "lstm": Lstm, "hstu": Hstu}

T = TypeVar("T")


def build_encoder(
    settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
) -> SequenceEncoder:
    """A new encoder of the settings' architecture, see ``SequenceEncoder``; ConfigError if there is none such."""
    kind = registered(ENCODERS, settings.architecture, "architecture")
    return kind(settings, vocabulary, sparse_tables)


def registered(known: Mapping[str, T], name: str, setting: str) -> T:
    """What is registered by a name; ConfigError, with the setting and the known names, if nothing is."""
    if name not in known:
        raise ConfigError(f"{setting}: expected one of {', '.join(sorted(known))}, found {name!r}")
    return known[name]
