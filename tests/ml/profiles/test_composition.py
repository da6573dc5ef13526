from dataclasses import replace

import numpy as np
import pytest

from conf.profile import EnsembleSettings
from ml.profiles.composition import BlockRows as Block
from ml.profiles.composition import fit_composition, prepare_vectors
from ml.profiles.moments import Moments
from schemas.errors import ConfigError

BUYS = Block("product_buy", np.array([[3, 4], [9, 9], [1, 2]], dtype=np.float32), np.array([True, False, True]))
VISITS = Block("page_visit", np.array([[5, 8], [9, 9], [9, 9]], dtype=np.float32), np.array([True, False, False]))


def compose(parts, **settings):
    moments = {part.name: Moments.of(part.vectors[part.is_present]) for part in parts}
    composition = fit_composition(moments, EnsembleSettings(**settings))
    profiles = composition.compose(parts)
    assert profiles.dtype == np.float32
    assert profiles.shape[1] == composition.width
    return profiles


def random_blocks(n=200, widths=(6, 3), seed=0):
    """Blocks of correlated columns with unequal spreads, far from zero, a third of the clients absent."""
    rng = np.random.default_rng(seed)
    return [
        Block(
            f"block_{width}",
            (rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * 7 + 50).astype(np.float32),
            rng.random(n) < 0.67,
        )
        for width in widths
    ]


def test_vectors_stand_side_by_side_with_zeros_and_a_flag_for_the_absent():
    profiles = compose([BUYS, VISITS], composition="concat", scaling="none", absent="zeros", presence_flags=True)

    assert profiles.tolist() == [[3, 4, 5, 8, 1, 1], [0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 1, 0]]


def test_the_absent_get_the_mean_of_those_who_have_the_block():
    profiles = compose([BUYS, VISITS], composition="concat", scaling="none", absent="mean", presence_flags=False)

    assert profiles.tolist() == [[3, 4, 5, 8], [2, 3, 5, 8], [1, 2, 5, 8]]


def test_a_client_with_a_vector_of_zeros_is_told_from_an_absent_one():
    block = Block("product_buy", np.zeros((2, 2), np.float32), np.array([True, False]))
    present, absent = compose([block], presence_flags=True)

    assert not np.array_equal(present, absent)


def test_the_mean_is_over_the_blocks_that_a_client_has():
    profiles = compose([BUYS, VISITS], composition="mean", scaling="none", absent="zeros", presence_flags=True)

    assert profiles.tolist() == [[4, 6, 1, 1], [0, 0, 0, 0], [1, 2, 1, 0]]


def test_further_blocks_stand_beside_the_mean():
    further = Block("counts", np.array([[1], [2], [3]], np.float32), np.ones(3, bool))
    settings = {"composition": "mean", "blocks": ("counts",), "blocks_scaling": "none"}

    assert compose([BUYS, VISITS, further], **settings, presence_flags=False).tolist() == [
        [4, 6, 1],
        [0, 0, 2],
        [1, 2, 3],
    ]
    assert compose([further], **settings, presence_flags=True).tolist() == [[1, 1], [2, 1], [3, 1]]


def test_the_mean_of_blocks_of_unequal_widths_is_refused():
    with pytest.raises(ConfigError, match="needs encoders of one width, found"):
        compose(random_blocks(), composition="mean")


@pytest.mark.parametrize("scaling", ["block", "column"])
@pytest.mark.parametrize("absent", ["zeros", "mean"])
def test_standardised_blocks_equal_plain_numpy(scaling, absent):
    blocks = random_blocks()
    profiles = compose(blocks, scaling=scaling, absent=absent, presence_flags=False)

    expected = []
    for block in blocks:
        own = block.vectors[block.is_present].astype(np.float64)
        spread = own.std(axis=0) if scaling == "column" else np.sqrt(own.var(axis=0).mean())
        filled = np.where(block.is_present[:, None], block.vectors, own.mean(axis=0) if absent == "mean" else 0.0)
        expected.append((filled - own.mean(axis=0)) / spread)
    np.testing.assert_allclose(profiles, np.concatenate(expected, axis=1), atol=1e-4)


def test_further_blocks_have_a_scaling_of_their_own():
    own, further = random_blocks()
    settings = {"scaling": "none", "absent": "zeros", "presence_flags": False, "blocks": (further.name,)}

    profiles = compose([own, further], **settings, blocks_scaling="column")

    np.testing.assert_array_equal(profiles[:, :6], compose([own], scaling="none", absent="zeros", presence_flags=False))
    alone = compose([further], scaling="column", absent="zeros", presence_flags=False)
    np.testing.assert_array_equal(profiles[:, 6:], alone)


@pytest.mark.parametrize(("scaling", "spread"), [("column", 0.25), ("block", 0.25), ("none", 0.25 * 15**0.5)])
def test_further_blocks_weigh_what_the_settings_say(scaling, spread):
    own = Block("product_buy", np.arange(4, dtype=np.float32).reshape(4, 1), np.ones(4, bool))
    further = replace(own, name="counts", vectors=2 * 3**0.5 * own.vectors)
    settings = {"blocks": ("counts",), "blocks_scaling": scaling, "blocks_weight": 0.25, "presence_flags": False}
    profiles = compose([own, further], **settings)

    np.testing.assert_array_equal(profiles[:, 0], own.vectors[:, 0])
    np.testing.assert_allclose(profiles[:, 1].std(), spread, rtol=1e-6)


def test_a_column_without_spread_becomes_zeros():
    vectors = np.array([[0.1, 1.0], [0.1, 3.0]], dtype=np.float32)

    profiles = compose([Block("a", vectors, np.ones(2, bool))], scaling="column", presence_flags=False)

    assert profiles.tolist() == [[0, -1], [0, 1]]


def test_a_block_that_nobody_has_keeps_its_columns():
    nobody = Block("search_query", np.zeros((3, 2), np.float32), np.zeros(3, bool))
    profiles = compose([BUYS, nobody], scaling="column", absent="mean", presence_flags=True)

    assert profiles[:, 2:].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("scaling", ["none", "block", "column"])
def test_wider_profiles_are_projected_on_the_axes_of_largest_variance_of_all_blocks(scaling):
    blocks = random_blocks()
    profiles = compose(blocks, scaling=scaling, absent="mean", presence_flags=True, max_width=6)  # 4 axes, 2 flags

    axes = []
    for number, block in enumerate(blocks):
        own = block.vectors[block.is_present].astype(np.float64)
        spread = {"none": 1.0, "block": np.sqrt(own.var(axis=0).mean()), "column": own.std(axis=0)}[scaling]
        standard = (own - own.mean(axis=0)) / spread
        _, singular, directions = np.linalg.svd(standard, full_matrices=False)
        for value, direction in zip(singular, directions, strict=True):
            direction *= np.sign(direction[np.abs(direction).argmax()])
            scores = np.zeros(len(block.vectors))
            scores[block.is_present] = standard @ direction
            axes.append((value**2 / len(own), number, scores))
    kept = sorted(axes, key=lambda axis: -axis[0])[:4]
    kept.sort(key=lambda axis: (axis[1], -axis[0]))
    flags = np.stack([block.is_present for block in blocks], axis=1)
    expected = np.concatenate([np.stack([scores for *_, scores in kept], axis=1), flags], axis=1)
    np.testing.assert_allclose(profiles, expected, atol=1e-3 * np.abs(expected).max())


def test_profiles_within_the_width_keep_their_columns():
    blocks = random_blocks()
    expected = compose(blocks, scaling="column", presence_flags=True)

    np.testing.assert_array_equal(compose(blocks, scaling="column", presence_flags=True, max_width=11), expected)


def test_a_width_without_room_for_a_column_is_refused():
    with pytest.raises(ConfigError, match="11 columns, flags included, and principal axes"):
        compose(random_blocks(), presence_flags=True, max_width=2)


def test_the_reports_profile_is_1280_wide():
    vectors = np.ones((1, 256), np.float32)
    blocks = [Block(str(number), vectors, np.array([True])) for number in range(5)]

    assert compose(blocks, presence_flags=False).shape == (1, 1280)


def test_the_mean_leaves_counters_out():
    activity = Block("activity", np.array([[1], [0], [3]], np.float32), np.array([True, False, True]))

    profiles = compose([BUYS, VISITS, activity], composition="mean", scaling="none", presence_flags=False)

    assert profiles.tolist() == [[4, 6, 1], [0, 0, 0], [1, 2, 3]]


def test_the_logarithm_is_of_further_blocks_and_keeps_signs_and_zeros():
    vectors = np.array([[0, -np.expm1(2), np.expm1(3)]], np.float32)
    settings = EnsembleSettings(blocks=("a",))

    np.testing.assert_allclose(prepare_vectors("a", vectors, settings), [[0, -2, 3]], rtol=1e-6)
    np.testing.assert_array_equal(prepare_vectors("product_buy", vectors, settings), vectors)
    np.testing.assert_array_equal(prepare_vectors("a", vectors, replace(settings, log_blocks=False)), vectors)
