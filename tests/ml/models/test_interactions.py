"""The network of interactions against values computed by hand."""

import numpy as np
import torch

from conf.interactions import InteractionSettings
from ml.models.interactions import BinnedCounters, Crosses, InteractionNetwork, fit_knots

NAN, INF = float("nan"), float("inf")


def test_knots_are_quantiles_of_the_numbers_that_are_known() -> None:
    numbers = np.array([[4, 7, NAN], [0, NAN, INF], [1, 7, NAN], [3, 7, NAN], [2, 7, -INF]], np.float32)
    np.testing.assert_array_equal(fit_knots(numbers, 2), [[0, 2, 4], [7, 7, 7], [0, 0, 0]])


def test_a_number_has_the_row_of_its_sub_bin_and_a_missing_one_its_own() -> None:
    # two bins of two parts: rows 0 to 3 and 4 of the first counter, 5 to 8 and 9 of the second
    bins = BinnedCounters(torch.tensor([[0.0, 1, 3], [0, 0, 10]]), n_sub_bins=2, width=2)
    of_first = {-1: 0, 0: 0, 0.4: 0, 0.5: 1, 1: 2, 1.9: 2, 2.9: 3, 3: 3, 99: 3, NAN: 4, INF: 4}
    of_second = {-1: 5, 0: 7, 4.9: 7, 5: 8, 10: 8, NAN: 9}
    for counter, expected in enumerate((of_first, of_second)):
        numbers = torch.zeros(len(expected), 2)
        numbers[:, counter] = torch.tensor(list(expected))
        assert bins.rows(numbers)[:, counter].tolist() == list(expected.values())
    constant = BinnedCounters(torch.tensor([[7.0, 7, 7]]), 2, 2)
    assert constant.rows(torch.tensor([[7.0], [8.0]])).tolist() == [[2], [2]]  # no width, no NaN
    with torch.no_grad():
        bins.vectors.copy_(torch.arange(20.0).view(10, 2))
    assert bins(torch.tensor([[1.0, NAN]])).tolist() == [[4, 5, 18, 19]]


def test_vectors_of_sub_bins_begin_on_a_line() -> None:
    vectors = BinnedCounters(torch.tensor([[0.0, 1, 2]]), 2, 3).vectors
    steps = vectors[1:4] - vectors[:3]
    torch.testing.assert_close(steps, steps[:1].expand(3, 3))
    torch.testing.assert_close(vectors[0], -vectors[3])
    assert vectors[4].tolist() == [0, 0, 0]


def test_crosses_project_what_they_make_of_their_input() -> None:
    crosses = Crosses(2, (1, 1))
    with torch.no_grad():
        for parameter, value in (
            (crosses.down[0].weight, [[1.0, 2]]),
            (crosses.up[0].weight, [[1.0], [3]]),
            (crosses.up[0].bias, [0.5, 0]),
            (crosses.down[1].weight, [[1.0, 1]]),
        ):
            parameter.copy_(torch.tensor(value))
    # V^T x0 = 5; x1 = x0 * ([5, 15] + b) + x0 = [1 * 5.5 + 1, 2 * 15 + 2]
    assert crosses(torch.tensor([[1.0, 2]])).tolist() == [[5, 38.5]]


def test_sizes_are_the_published_ones() -> None:
    settings = InteractionSettings(n_bins=65, n_sub_bins=32)  # as conf/fourth_place.yaml has them
    model = InteractionNetwork(torch.zeros(346, 66), 201, settings).eval()
    assert model.counters.vectors.shape == (346 * (65 * 32 + 1), 2)
    vectors = model(torch.zeros(3, 346))
    assert vectors.shape == (3, 128)
    assert [tuple(layer.weight.shape) for layer in model.dense] == [(64, 256), (64, 320), (64, 384), (64, 448)]
    assert model.output.weight.shape == (201, 512)
    assert model.logits(vectors).shape == (3, 201)


def test_every_cross_is_with_the_input_of_the_first() -> None:
    torch.manual_seed(0)
    crosses, first = Crosses(3, (2, 2, 2)), torch.randn(4, 3)
    second = first * crosses.up[0](crosses.down[0](first)) + first
    third = first * crosses.up[1](crosses.down[1](second)) + second
    expected = [down(x) for down, x in zip(crosses.down, (first, second, third), strict=True)]
    torch.testing.assert_close(crosses(first), torch.cat(expected, dim=1))
