import math

import numpy as np
import pytest
import torch

from ml.metrics.ranking import RankingMetrics, ranking_sums


def test_sums_of_ranks_are_hits_gains_and_reciprocals():
    sums = ranking_sums(torch.tensor([1, 3, 10, 11]))

    expected = [4, 3, 1 + 1 / 2 + 1 / math.log2(11), 1 + 1 / 3 + 1 / 10 + 1 / 11]
    np.testing.assert_allclose(sums, expected)
    assert sums.dtype == np.float64


def test_metrics_of_added_sums_are_those_of_all_ranks():
    parts = ranking_sums(torch.tensor([1])) + ranking_sums(torch.tensor([3, 20])) + ranking_sums(torch.tensor([]))

    assert RankingMetrics.from_sums(parts) == RankingMetrics(
        n_users=3,
        hr_at_10=pytest.approx(2 / 3),
        ndcg_at_10=pytest.approx(0.5),
        mrr=pytest.approx((1 + 1 / 3 + 0.05) / 3),
    )
