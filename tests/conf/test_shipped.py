"""The configurations that come with the project."""

from pathlib import Path

import pytest

from conf.evaluation import ProbeSettings
from conf.load import known_configs, load_config, to_yaml
from conf.profile import EnsembleSettings


@pytest.mark.parametrize("name", known_configs())
def test_every_shipped_file_loads_and_comes_back_the_same_from_what_is_saved(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "saved.yaml")) == config


def test_the_reports_settings_are_to_the_letter() -> None:
    config = load_config("report")
    lengths = {name: encoder.max_length for name, encoder in config.encoders.items()}
    assert lengths == {
        "product_buy": 30,
        "add_to_cart": 64,
        "remove_from_cart": 48,
        "page_visit": 128,
        "search_query": 128,
    }
    assert config.behaviours["page_visit"].min_count == 5
    model = config.model
    assert (model.hidden_size, model.n_layers, model.n_heads) == (256, 6, 8)
    assert (model.embedding_dropout, model.encoder_dropout) == (0.2, 0.2)
    assert (config.masking.mask_prob, config.masking.mask_share, config.masking.random_share) == (0.15, 0.8, 0.1)
    assert (config.training.learning_rate, config.training.clip_norm) == (1e-4, 1.0)
    assert config.inference.pooling == "mean"
    assert {(encoder.architecture, encoder.objective) for encoder in config.encoders.values()} == {
        ("transformer", "cloze")
    }
    assert config.ensemble == EnsembleSettings("concat", scaling="none", absent="zeros", presence_flags=False)
    assert config.probe.of_a_score() == ProbeSettings().of_a_score()


@pytest.mark.parametrize(("name", "expected"), [(each, "auto") for each in ("default", "demo", "fourth_place")]
                         + [("report", "float32")])  # fmt: skip
def test_a_gpu_does_what_it_can_but_for_the_reports_settings(name: str, expected: str) -> None:
    for encoder in load_config(name).encoders.values():
        assert (encoder.training.precision, encoder.inference.precision) == (expected, expected)
        assert (encoder.training.packing, encoder.training.compile) == ("auto", "auto")


def test_the_fourth_places_stack_has_its_published_sizes() -> None:
    config = load_config("fourth_place")
    assert [*config.encoders] == ["mixed"]
    mixed = config.encoders["mixed"]
    assert set(mixed.behaviours) == set(config.behaviours)
    assert (mixed.hidden_size, mixed.n_layers, mixed.max_length, mixed.table_rows) == (1024, 20, 256, 524_288)
    assert (mixed.table_kind, mixed.objective, mixed.has_context) == ("events", "next_event", True)
    assert config.ensemble.blocks == ("graph", "interactions", "counters")
    assert not config.ensemble.activity
    widths = {"mixed": 1024, "graph": config.graph.dimensions, "interactions": sum(config.interactions.ranks)}
    assert widths == {"mixed": 1024, "graph": 256, "interactions": 128}
    crosses = config.interactions
    assert (crosses.n_bins, crosses.n_sub_bins, crosses.view_weight) == (65, 32, 0.5)


def test_the_probes_defaults_are_the_challenges() -> None:
    assert ProbeSettings() == ProbeSettings(2048, 3, 1e-3, 128, 3, 1278)
