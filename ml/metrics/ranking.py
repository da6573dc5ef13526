"""Hit rate, NDCG and reciprocal rank, from the rank of the one relevant item of each client."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the ranked clients: hit rate and NDCG at 10, and the reciprocal rank."""

    n_users: int
    hr_at_10: float
    ndcg_at_10: float
    mrr: float

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> "RankingMetrics":
        """The metrics of ``ranking_sums``, added over batches and processes, of one client or more."""
        # from sums, not from means of ranks: these have unequal numbers of clients
        n_users = int(sums[0])
        hr, ndcg, mrr = (float(total) / n_users for total in sums[1:])
        return cls(n_users, hr, ndcg, mrr)


def ranking_sums(ranks: Tensor) -> np.ndarray:
    """Float64 [4]: number of ranks, and their summed HR@10, NDCG@10 and reciprocals; sums of parts may be added."""
    rank = ranks.cpu().numpy().astype(np.float64)
    is_hit = rank <= 10
    gain = math.log(2) / np.log1p(rank)  # the one relevant item's NDCG: 1 / log2(rank + 1)
    return np.array([len(rank), is_hit.sum(), (gain * is_hit).sum(), (1.0 / rank).sum()])
