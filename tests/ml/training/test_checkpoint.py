import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_encoders import TINY, batch_of, transformer

from conf.training import TrainingSettings
from ml.data.item_attributes import ItemAttributes
from ml.data.vocabulary import VocabularyDescription
from ml.training.checkpoint import ModelCard, load_model, save_model
from schemas.errors import ModelError

SETTINGS = replace(TINY, training=TrainingSettings(network_interfaces=("eth0",)))
CARD = ModelCard("product_buy", SETTINGS, VocabularyDescription(10), vocabulary_fingerprint="abc", sequences_version=3)


def fresh_model(seed=7):
    torch.manual_seed(seed)
    return transformer(SETTINGS, n_tokens=10)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "models" / "product_buy"
    save_model(folder, fresh_model(), CARD, {"valid/mrr": 0.5})
    return folder


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_a_saved_model_comes_back_whole_and_ready_for_inference(saved):
    model, card = load_model(saved, expected_fingerprint="abc")

    assert_same_weights(model, fresh_model())
    assert card == CARD
    assert not model.training
    torch.testing.assert_close(model.encode(batch_of([0, 5, 6])), fresh_model().eval().encode(batch_of([0, 5, 6])))


def test_item_attributes_are_no_part_of_the_card_but_their_digest_is(tmp_path):
    vocabularies = []
    for price in (3, 4):
        attributes = ItemAttributes.unknown(10)
        attributes.price[5] = price
        vocabularies.append(VocabularyDescription.of_attributes(attributes, ("sku",)))
    card = replace(CARD, vocabulary=vocabularies[0])
    save_model(tmp_path / "model", fresh_model(), card, {})

    loaded = load_model(tmp_path / "model")[1]
    assert loaded == card
    assert loaded.vocabulary.attributes is None
    assert repr(loaded) == repr(card) != repr(replace(card, vocabulary=vocabularies[1]))


def test_a_loaded_model_can_be_trained_on(saved):
    model, _ = load_model(saved)
    model.encode(batch_of([5, 6])).sum().backward()

    assert model.item_table.weight.grad is not None


def test_a_folder_holds_weights_configuration_and_metrics_and_nothing_is_left_beside_it(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "metrics.json", "weights.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["product_buy"]
    assert json.loads((saved / "metrics.json").read_text()) == {"valid/mrr": 0.5}


def test_a_new_model_replaces_the_old_one(saved):
    save_model(saved, fresh_model(seed=8), CARD, {})

    assert_same_weights(load_model(saved)[0], fresh_model(seed=8))
    assert [path.name for path in saved.parent.iterdir()] == ["product_buy"]


def test_a_model_in_use_survives_its_replacement(saved):
    model, _ = load_model(saved)
    save_model(saved, fresh_model(seed=8), CARD, {})

    assert_same_weights(model, fresh_model())


def test_a_save_that_fails_leaves_the_old_model_and_the_next_one_succeeds(saved):
    with pytest.raises(ValueError, match="Out of range float"):
        save_model(saved, fresh_model(seed=8), CARD, {"valid/mrr": float("nan")})
    assert_same_weights(load_model(saved)[0], fresh_model())

    save_model(saved, fresh_model(seed=9), CARD, {})
    assert_same_weights(load_model(saved)[0], fresh_model(seed=9))
    assert [path.name for path in saved.parent.iterdir()] == ["product_buy"]


def test_a_model_of_another_vocabulary_is_refused(saved):
    with pytest.raises(ModelError, match=r"belongs to another vocabulary.*abc.*xyz.*run train again"):
        load_model(saved, expected_fingerprint="xyz")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model folder .*page_visit; run train first"):
        load_model(tmp_path / "page_visit")


@pytest.mark.parametrize("n_bytes_kept", [0, 5, 100, -1])
def test_truncated_weights_are_refused(saved, n_bytes_kept):
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:n_bytes_kept])

    with pytest.raises(ModelError, match=r"weights\.safetensors is missing, damaged"):
        load_model(saved)


def test_missing_weights_are_refused(saved):
    (saved / "weights.safetensors").unlink()

    with pytest.raises(ModelError, match=r"weights\.safetensors is missing"):
        load_model(saved)


def test_weights_of_another_shape_than_the_configuration_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"vocabulary": {"n_tokens": 11}}))

    with pytest.raises(ModelError, match=r"not of config\.json's shape"):
        load_model(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_layers", 10_000_000), ("hidden_size", 2**40), ("n_layers", -1), ("max_length", 2**40), ("norm", "no")],
)
def test_a_shape_that_no_model_has_is_refused_before_it_is_built(saved, key, value):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"settings": {**config["settings"], key: value}}))

    with pytest.raises(ModelError, match=rf"config\.json is missing or is no model's configuration [^;]*{key}"):
        load_model(saved)


@pytest.mark.parametrize("change", [{}, {"table": "product", "table_splits": 2}])
def test_a_vocabulary_larger_than_the_weights_is_refused_before_its_table_is_built(saved, change):
    config = json.loads((saved / "config.json").read_text())
    config |= {"vocabulary": {"n_tokens": 10**12}, "settings": config["settings"] | change}
    (saved / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"not of config\.json's shape: expected 1,000,000,000,000 tokens"):
        load_model(saved)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)

    with pytest.raises(ModelError, match=rf"{name} is missing.*found a pipe"):
        load_model(saved)


def test_a_configuration_without_an_end_is_refused(saved):
    for text in ("[" * 500_000, "[" * 2_000_000):
        (saved / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json is missing or is no model's configuration"):
            load_model(saved)


@pytest.mark.parametrize("text", ["", "{}", '{"encoder": 1', '{"settings": {"hidden_size": 7}}', "[]"])
def test_a_configuration_that_is_none_is_refused(saved, text):
    (saved / "config.json").write_text(text)

    with pytest.raises(ModelError, match=r"config\.json is missing or is no model's configuration"):
        load_model(saved)


def test_an_architecture_that_is_not_registered_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"settings": {**config["settings"], "architecture": "own"}}))

    with pytest.raises(ModelError, match=r"config\.json: architecture: expected one of .*transformer.*found 'own'"):
        load_model(saved)


def test_loading_draws_no_random_numbers_and_imports_no_compiler(saved):
    code = f"""
import sys, pathlib, torch
from ml.training.checkpoint import load_model
state = torch.get_rng_state()
load_model(pathlib.Path({str(saved)!r}))
assert torch.equal(torch.get_rng_state(), state)
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
