"""What a configuration names, refused by name before anything starts."""

from typing import Any

import pytest
from event_streams import event_settings
from small_encoders import settings_of

from conf.encoders import EventEmbeddingSettings, InferenceSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import build_encoder
from ml.models.transformer import Transformer
from ml.objectives.cloze import Cloze
from ml.objectives.next_item import NextItem
from ml.objectives.registry import build_objective, require_encoder
from schemas.errors import ConfigError

VOCABULARY = VocabularyDescription(8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "rnn"}, r"^encoders\.carts\.architecture: expected one of .*transformer.*, found 'rnn'$"),
        (
            {"objective": "guess"},
            r"^encoders\.carts\.objective: expected one of .*cloze, .*next_item.*, found 'guess'$",
        ),
        (
            {"attention": "causal"},
            r"^encoders\.carts\.objective=cloze: expected a bidirectional encoder, found a causal one "
            r"\(attention=causal\); set encoders\.carts\.attention=bidirectional, or an objective for it: .*next_item",
        ),
        (
            {"objective": "next_item"},
            r"^encoders\.carts\.objective=next_item: expected a causal encoder, found a bidirectional one .*"
            r"set encoders\.carts\.attention=causal, or an objective for it: .*cloze",
        ),
        (
            {"architecture": "gru"},
            r"^encoders\.carts\.objective=cloze: expected a bidirectional encoder, found a causal one "
            r"\(architecture=gru\); set an objective for it: next_item, all_action",
        ),
        (
            {"architecture": "hstu", "objective": "next_item", "inference": InferenceSettings(pooling="mask")},
            r"^encoders\.carts: inference\.pooling=mask needs an encoder that sees MASK",
        ),
    ],
)
def test_what_is_unknown_or_does_not_go_together_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_encoder("carts", settings_of(**changes))


@pytest.mark.parametrize("changes", [{"behaviours": ("page_visit",)}, {"event_columns": False}])
def test_next_event_needs_the_events_of_several_behaviours(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^encoders\.mixed\.objective=next_event: expected several behaviours"):
        require_encoder("mixed", event_settings(event_embedding=EventEmbeddingSettings(context=False), **changes))
    with pytest.raises(ConfigError, match=r"^encoders\.mixed\.objective=next_event: expected a causal encoder"):
        require_encoder("mixed", event_settings(attention="bidirectional"))
    require_encoder("mixed", event_settings())


def test_what_goes_together_is_built() -> None:
    causal = settings_of(attention="causal", objective="next_item")
    for settings, kind in ((settings_of(), Cloze), (causal, NextItem)):
        require_encoder("carts", settings)
        assert isinstance(build_objective(settings, VOCABULARY), kind)
        assert isinstance(build_encoder(settings, VOCABULARY), Transformer)


def test_an_unknown_name_is_refused_where_it_is_built_too() -> None:
    with pytest.raises(ConfigError, match="architecture: expected one of"):
        build_encoder(settings_of(architecture="rnn"), VOCABULARY)
    with pytest.raises(ConfigError, match="objective: expected one of"):
        build_objective(settings_of(objective="guess"), VOCABULARY)
