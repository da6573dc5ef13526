import hashlib
from dataclasses import replace

import numpy as np
import pytest

from conf.load import load_config
from conf.profile import BlockSettings, EnsembleSettings
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


def random_blocks(widths=(6, 3)):
    """Blocks of correlated columns with unequal spreads, far from zero, a third of the clients absent."""
    rng = np.random.default_rng(0)
    return [
        Block(
            f"block_{width}",
            (rng.normal(size=(200, width)) @ rng.normal(size=(width, width)) * 7 + 50).astype(np.float32),
            rng.random(200) < 0.67,
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


@pytest.mark.parametrize(
    ("settings", "width", "digest"),
    [
        (load_config("report").ensemble, 8, "fdf3810d078eb66e"),
        (EnsembleSettings(activity=True, blocks=("baseline",), blocks_weight=0.125), 24, "34d9d9cfe0aabcd2"),
    ],
)
def test_without_stacking_profiles_are_as_before_there_was_any(settings: EnsembleSettings, width: int, digest: str):
    rng, parts = np.random.default_rng(5), []
    for name, n_columns in (("product_buy", 4), ("page_visit", 4), ("activity", 5), ("baseline", 7)):
        if (name == "activity" and not settings.activity) or (name == "baseline" and not settings.named_blocks):
            continue
        vectors = rng.integers(-50, 300, (50, n_columns)).astype(np.float32)
        is_present = rng.random(50) < 0.7 if n_columns == 4 else np.ones(50, bool)
        parts.append(Block(name, prepare_vectors(name, vectors, settings), is_present))
    moments = {part.name: Moments.of(part.vectors[part.is_present]) for part in parts}
    profiles = fit_composition(moments, settings).compose(parts)
    assert profiles.shape == (50, width)
    assert hashlib.sha256(profiles.astype(np.float16).tobytes()).hexdigest()[:16] == digest


def test_a_block_may_be_stacked_by_settings_of_its_own():
    settings = EnsembleSettings(
        absent="mean",
        blocks=("counts",),
        blocks_weight=0.5,
        stacking={"counts": BlockSettings(transform="none", scaling="none", presence=False, weight=2.0)},
    )
    assert settings.of_block("counts") == BlockSettings("none", None, "none", "mean", False, 2.0)
    assert settings.of_block("product_buy") == BlockSettings("none", None, "none", "mean", True, 1.0)

    counts = Block("counts", np.array([[1], [2], [3]], np.float32), np.ones(3, bool))
    profiles = compose([BUYS, counts], **{name: getattr(settings, name) for name in vars(settings)})
    assert profiles.tolist() == [[3, 4, 2, 1], [2, 3, 4, 0], [1, 2, 6, 1]]


def test_a_blocks_principal_axes_are_those_of_its_scaled_columns():
    block = random_blocks(widths=(6,))[0]
    stacking = {block.name: BlockSettings(max_columns=2, scaling="column", absent="mean", presence=False)}
    profiles = compose([block], stacking=stacking)

    own = block.vectors[block.is_present].astype(np.float64)
    standard = (own - own.mean(axis=0)) / own.std(axis=0)
    _, _, directions = np.linalg.svd(standard, full_matrices=False)
    # an axis may point either way
    np.testing.assert_allclose(np.abs(profiles[block.is_present]), np.abs(standard @ directions[:2].T), atol=1e-4)
    np.testing.assert_allclose(profiles[~block.is_present], 0.0, atol=1e-4)


def test_rows_get_one_length_after_the_principal_axes_and_absent_ones_none():
    block = random_blocks(widths=(6,))[0]
    settings = BlockSettings(max_columns=3, scaling="row", absent="mean", presence=False, weight=0.25)
    profiles = compose([block], stacking={block.name: settings})

    lengths = np.linalg.norm(profiles, axis=1)
    np.testing.assert_allclose(lengths[block.is_present], 0.25, rtol=1e-5)
    axes = compose([block], stacking={block.name: replace(settings, scaling="none", weight=1.0)})[block.is_present]
    expected = 0.25 * axes / np.linalg.norm(axes, axis=1)[:, None]
    np.testing.assert_allclose(profiles[block.is_present], expected, atol=1e-5)


def test_no_row_is_divided_by_a_length_of_zero():
    block = Block("a", np.array([[3, 4], [0, 0], [9, 9]], np.float32), np.array([True, True, False]))

    profiles = compose([block], scaling="row", presence_flags=False)

    np.testing.assert_allclose(profiles, [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)


def test_a_constant_is_the_last_column_of_every_client_and_counts_as_one():
    profiles = compose([BUYS, VISITS], presence_flags=True, constant=0.5)

    assert profiles.tolist() == [[3, 4, 5, 8, 1, 1, 0.5], [0, 0, 0, 0, 0, 0, 0.5], [1, 2, 0, 0, 1, 0, 0.5]]
    blocks = random_blocks()
    assert compose(blocks, presence_flags=True, constant=3, max_width=6)[:, -1].tolist() == [3] * 200  # 3 axes, 2 flags


def test_axes_of_all_blocks_keep_within_the_number_of_each():
    blocks = random_blocks(widths=(6, 3))
    profiles = compose(blocks, stacking={"block_6": BlockSettings(max_columns=2)}, presence_flags=False, max_width=4)
    alone = compose(blocks[:1], stacking={"block_6": BlockSettings(max_columns=2)}, presence_flags=False)

    assert profiles.shape[1] == 4
    np.testing.assert_allclose(profiles[:, :2], alone, atol=1e-3 * np.abs(alone).max())


def test_a_quantile_is_the_share_of_smaller_numbers_and_half_the_equal_ones():
    column = np.array([0, 0, 0, 0, 1, 2, 3, 100], np.float32)
    quantiles = {"a": np.quantile(column, np.linspace(0, 1, 1001), method="inverted_cdf")[None]}
    settings = EnsembleSettings(stacking={"a": BlockSettings(transform="quantile")})
    found = prepare_vectors("a", column[:, None], settings, quantiles)[:, 0]

    np.testing.assert_allclose(found[:4], 0.25, atol=2e-3)
    np.testing.assert_allclose(found[4:7], [0.5625, 0.6875, 0.8125], atol=2e-3)
    outside = prepare_vectors("a", np.array([[-5], [1e6], [np.inf], [np.nan]], np.float32), settings, quantiles)[:, 0]
    np.testing.assert_array_equal(outside, np.array([0, 1, np.nan, np.nan], np.float32))  # moments refuse the last two


def test_what_stands_for_an_absent_block_is_no_part_of_the_mean():
    profiles = compose([BUYS, VISITS], composition="mean", scaling="none", absent="mean", presence_flags=False)

    assert profiles.tolist() == [[4, 6], [0, 0], [1, 2]]


def test_a_block_of_few_axes_takes_no_room_from_the_others():
    blocks = random_blocks(widths=(6, 3))
    settings = {"stacking": {"block_6": BlockSettings(max_columns=2)}, "presence_flags": False}
    profiles = compose(blocks, **settings, max_width=4)
    composition = compose(blocks[1:], presence_flags=False, max_width=2)
    np.testing.assert_allclose(profiles[:, 2:], composition, atol=1e-3 * np.abs(composition).max())


def test_axes_of_rows_of_one_length_are_chosen_by_their_share_of_it():
    rng, everybody = np.random.default_rng(0), np.ones(200, bool)
    # of the second block, long vectors that hardly differ
    small = Block("small", (1e-3 * rng.normal(size=(200, 2))).astype(np.float32), everybody)
    large = Block("large", (1e3 + rng.normal(size=(200, 2))).astype(np.float32), everybody)
    profiles = compose([small, large], scaling="row", presence_flags=False, max_width=2)
    centred = small.vectors - small.vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(profiles @ profiles.T, unit @ unit.T, atol=1e-3)  # an axis may point either way
