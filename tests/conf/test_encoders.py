"""Encoders of a configuration: what they are completed by, and which are refused."""

import pytest

from conf.encoders import MaskingSettings
from conf.load import load_config
from schemas.errors import ConfigError

MIXED = "encoders.mixed={behaviours: [page_visit, product_buy, add_to_cart], max_length: 32}"


def test_an_encoder_is_completed_by_the_sections_and_differs_where_it_says_so() -> None:
    own = "encoders.visits={behaviours: [page_visit], max_length: 16, n_layers: 1, training: {epochs: 2}}"
    config = load_config("demo", [own, "model.hidden_size=32", "training.learning_rate=0.5"])
    visits, others = config.encoders["visits"], config.encoders["page_visit"]
    assert (visits.n_layers, visits.hidden_size) == (1, 32)
    assert (visits.training.epochs, visits.training.learning_rate) == (2, 0.5)
    assert (others.n_layers, others.hidden_size, others.training.epochs) == (2, 32, 15)
    assert config.stream("visits") == "page_visit"
    assert config.streams()["page_visit"].max_length == 64


def test_an_encoder_of_several_behaviours_has_a_stream_of_its_own_and_the_others_keep_theirs() -> None:
    config = load_config("default", [MIXED, "encoders.mixed.history_chunks=3"])
    mixed = config.streams()["mixed"]
    assert [*config.streams()] == [*load_config("default").streams(), "mixed"]
    assert (mixed.behaviours, mixed.max_length) == (("page_visit", "product_buy", "add_to_cart"), 96)
    assert (mixed.has_events, mixed.drops_repeats) == (True, True)
    assert mixed.layout(config.sequences).widths == (1, 4, 8, 16, 32, 64, 96)
    visits = config.streams()["page_visit"]
    assert (visits.has_events, visits.drops_repeats, visits.own_settings()) == (False, False, {})
    assert visits.layout(config.sequences) is config.sequences
    asked = load_config("demo", ["encoders.page_visit.event_columns=true"]).streams()["page_visit"]
    assert asked.has_events


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["encoders.page_visit.behaviours=[page_visit, product_buy]"],
            r"encoders\.page_visit: expected another name than a behaviour's .* reads page_visit, product_buy",
        ),
        (
            [MIXED, "encoders.mixed.behaviours=[page_visit, visits]"],
            r"encoders\.mixed\.behaviours: expected names of behaviours, product_buy, .*; found \['visits'\]",
        ),
        ([MIXED, "encoders.mixed.behaviours=[page_visit, page_visit]"], "expected each name once, found"),
        (
            [MIXED, "encoders.mixed.behaviours=[product_buy, search_query]", "behaviours.search_query.item=sku"],
            r"encoders\.mixed\.behaviours: expected items of one name to be of one kind, found \[.*'codes'.*'id'",
        ),
        (["encoders.page_visit.history_chunks=2"], "history_chunks: expected 1 for an encoder of one behaviour"),
    ],
)
def test_behaviours_that_cannot_be_merged_are_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", overrides)


@pytest.mark.parametrize(
    ("behaviour", "encoder", "message"),
    [
        (
            "banner={item: url}",
            "{behaviours: [page_visit, banner], table: semantic}",
            r"table=semantic: expected queries or names of skus, .*, found the items url; name a behaviour",
        ),
        (
            "answer={item: answer, kind: codes}",
            "{behaviours: [search_query, answer], objective: reconstruction}",
            r"objective=reconstruction: expected a behaviour whose item is sku or url, found the items answer, query; ",
        ),
    ],
)
def test_a_merged_encoder_of_items_without_what_it_is_made_of_is_refused_by_name(
    behaviour: str, encoder: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"encoders\.own\.{message}"):
        load_config("demo", [f"behaviours.{behaviour}", f"encoders.own={encoder}"])


def test_an_encoder_is_left_out_by_null() -> None:
    config = load_config("demo", ["encoders.page_visit=null", "encoders.mixed=null"])
    assert [*config.encoders] == ["product_buy", "add_to_cart", "remove_from_cart", "search_query"]


def test_a_merged_encoder_reads_the_behaviours_that_are_left_and_goes_with_all_but_one() -> None:
    config = load_config("demo").restricted_to("page_visit", "product_buy")
    assert [*config.encoders] == ["product_buy", "page_visit", "mixed"]
    assert config.encoders["mixed"].behaviours == ("product_buy", "page_visit")
    assert config.encoders["mixed"].next_event == load_config("demo").encoders["mixed"].next_event
    bought = load_config("demo").restricted_to("add_to_cart", "product_buy").encoders["mixed"]
    assert (bought.next_event.url, bought.next_event.item) == (False, True)
    assert [*config.restricted_to("product_buy").encoders] == ["product_buy"]
    told = ["ensemble.stacking.mixed={weight: 2}", "ensemble.blocks=[graph]", "graph.item_encoder=mixed"]
    one = load_config("demo", told).restricted_to("product_buy")
    assert "mixed" not in one.ensemble.stacking, "what was said of an encoder goes with it"
    assert one.graph.item_encoder is None


def test_pooling_by_mask_is_refused_for_models_that_never_see_one() -> None:
    with pytest.raises(
        ConfigError, match=r"encoders\.product_buy: inference\.pooling=mask needs attention=bidirectional"
    ):
        load_config("demo", ["model.attention=causal", "inference.pooling=mask"])


@pytest.mark.parametrize("names", [("timed", "plain"), ("plain", "timed")])
def test_a_stream_has_times_where_one_of_its_encoders_reads_them(names):
    of = {"timed": "{behaviours: [page_visit], event_columns: true}", "plain": "{behaviours: [page_visit]}"}
    config = load_config("report", [f"encoders.{name}={of[name]}" for name in names])
    assert config.streams()["page_visit"].has_events


def test_tokens_cannot_be_masked_and_replaced_in_more_than_all_cases():
    with pytest.raises(ConfigError, match="must be at most 1"):
        MaskingSettings(mask_share=0.8, random_share=0.3)
