"""A rank's share of the graph: each edge once in an epoch, and which pairs of a batch are edges."""

from pathlib import Path

import numpy as np
import pytest

from ml.data.edges import EdgeShare
from schemas.errors import TrainingError

RNG = np.random.default_rng(3)
PAIRS = np.unique(RNG.integers(0, [40, 25], (400, 2)), axis=0)
KNOWN = {(client * 10, target) for client, target in PAIRS.tolist()}


def share_of(pairs: np.ndarray) -> EdgeShare:
    return EdgeShare.of(pairs[:, 0] * 10, pairs[:, 1].astype(np.int32))


def test_batches_hold_each_edge_once_and_tell_which_pairs_are_edges() -> None:
    share, seen = share_of(PAIRS), []
    batches = list(share.batches(7, np.random.default_rng(1)))
    assert {len(batch.clients) for batch in batches} <= {len(PAIRS) // 7, len(PAIRS) // 7 + 1}
    for batch in batches:
        clients = share.client_ids[batch.clients].tolist()
        seen += list(zip(clients, batch.targets.tolist(), strict=True))
        expected = [[(client, target) in KNOWN for target in batch.targets.tolist()] for client in clients]
        np.testing.assert_array_equal(batch.is_edge, expected)
        assert not batch.is_edge.all()
    assert sorted(seen) == sorted(KNOWN)


def test_a_share_without_an_edge_gives_empty_batches() -> None:
    batches = list(share_of(PAIRS[:0]).batches(3, np.random.default_rng(1)))
    assert [(len(batch.clients), batch.is_edge.shape) for batch in batches] == [(0, (0, 0))] * 3


def test_files_give_the_same_share_in_any_order_and_a_lost_edge_is_an_error(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from ml.data.edge_files import read_edges

    urls = []
    for number, rows in enumerate((RNG.permutation(PAIRS)[:, :], PAIRS[:0])):
        table = pa.table({"client_id": rows[:, 0] * 10, "target_number": rows[:, 1].astype(np.int32)})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=50)
        urls.append((tmp_path / f"{number}.parquet").as_uri())
    expected = share_of(PAIRS)
    for order in (urls, urls[::-1]):
        share = read_edges(order, len(PAIRS), "arrow")
        for name in ("client_ids", "offsets", "targets"):
            np.testing.assert_array_equal(getattr(share, name), getattr(expected, name))
    with pytest.raises(TrainingError, match=f"read {len(PAIRS)} of {len(PAIRS) + 1} edges of 2 files"):
        read_edges(urls, len(PAIRS) + 1, "arrow")
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match=r"cannot read edges of the graph: .*vacuumed or moved"):
        read_edges(urls, len(PAIRS), "arrow")
