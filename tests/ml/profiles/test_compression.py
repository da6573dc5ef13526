"""Networks that make a block's columns fewer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conf.profile import BlockSettings, EnsembleSettings
from ml.profiles.composition import BlockRows, Network, fit_composition, standardising
from ml.profiles.compression import fit_network
from ml.profiles.moments import Moments
from schemas.errors import ConfigError


def test_a_layer_is_its_products_its_bias_and_a_relu_standardised() -> None:
    network = Network(
        (np.array([[1.0, -1.0], [2.0, 0.0]], np.float32),),
        (np.array([0.5, 0.25], np.float32),),
        is_rectified=True,
        center=np.array([1.0, 0.0], np.float32),
        scale=np.array([2.0, 1.0], np.float32),
    )
    # 1 + 4 + .5 = 5.5 and -1 + .25, which the ReLU makes 0
    assert network.apply(np.array([[1.0, 2.0]], np.float32)).tolist() == [[2.25, 0.0]]
    assert replace(network, is_rectified=False).apply(np.array([[1.0, 2.0]], np.float32)).tolist() == [[2.25, -0.75]]


@pytest.mark.parametrize(("kind", "n_layers"), [("dense", 1), ("autoencoder", 2)])
def test_what_lies_in_few_directions_is_kept_and_the_callers_random_numbers_are_left_alone(
    kind: str, n_layers: int
) -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(600, 2))
    vectors = (latent @ rng.normal(size=(2, 12)) * 5 + 3).astype(np.float32)
    everybody = BlockRows("block", vectors, np.ones(len(vectors), bool))
    standard = standardising(Moments.of(vectors)).apply(everybody)
    assert np.allclose(standard.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(standard.std(axis=0), 1, atol=1e-4)

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    network = fit_network(standard, 6, kind)
    assert torch.rand(1) == expected
    assert len(network.weights) == n_layers

    fewer = network.apply(standard)
    assert fewer.shape == (600, 6)
    assert np.array_equal(fewer, fit_network(standard, 6, kind).apply(standard))
    # a linear map of six columns of the network tells the two latent numbers: nothing was lost
    design = np.c_[fewer, np.ones(len(fewer))]
    left = latent - design @ np.linalg.lstsq(design, latent, rcond=None)[0]
    assert (left.var(axis=0) < 0.1 * latent.var(axis=0)).all()


def test_a_profile_holds_what_the_network_makes_at_the_length_or_weight_of_its_block() -> None:
    rng = np.random.default_rng(1)
    block = BlockRows("counters", rng.normal(size=(100, 8)).astype(np.float32), np.arange(100) > 0)
    moments = {"counters": Moments.of(block.vectors[1:])}
    own = BlockSettings(max_columns=3, reduction="dense", scaling="column", absent="mean", presence=False, weight=2.0)
    network = fit_network(standardising(moments["counters"]).apply(block)[1:], 3, "dense")

    def compose(own: BlockSettings, **settings: int) -> np.ndarray:
        ensemble = EnsembleSettings(stacking={"counters": own}, **settings)
        return fit_composition(moments, ensemble, {"counters": network}).compose([block])

    profiles = compose(own)
    assert profiles.shape == (100, 3)
    assert np.allclose(profiles[1:].std(axis=0), 2.0, atol=1e-3)
    assert np.allclose(np.linalg.norm(compose(replace(own, scaling="row")), axis=1), 2.0, atol=1e-5)
    with pytest.raises(ConfigError, match="reduction=axes"):
        compose(own, max_width=2)


def test_a_network_needs_as_many_clients_as_columns() -> None:
    with pytest.raises(ConfigError, match=r"max_columns=3 with reduction=dense needs as many clients .*, found 2"):
        fit_network(np.zeros((2, 5), np.float32), 3, "dense")
