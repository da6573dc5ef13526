"""One rank's share of a graph of clients and targets: all edges of its clients, and batches of them.

A target is an item by one relation: what was bought and what was added are two targets of one item.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.data.sequence_batch import flat_positions


class EdgeBatch(NamedTuple):
    """Edges of a step.

    Attributes
    ----------
    clients : int64 [B], positions in ``EdgeShare.client_ids``
    targets : int64 [B]
    is_edge : bool [B, B], whether client i has an edge to target j: then j is no negative of i
    """

    clients: NDArray[np.int64]
    targets: NDArray[np.int64]
    is_edge: NDArray[np.bool_]


@dataclass(frozen=True)
class EdgeShare:
    """The edges of some clients, each once, by client and then target.

    It takes 4 bytes per edge and 16 per client, less than their vectors.

    Attributes
    ----------
    client_ids : int64 [N], rising
    offsets : int64 [N + 1]; the targets of client n are ``targets[offsets[n] : offsets[n + 1]]``
    targets : int32 [E], rising within a client
    """

    client_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]

    @classmethod
    def of(cls, client_ids: NDArray[np.int64], targets: NDArray[np.int32]) -> "EdgeShare":
        """The edges of these pairs, int64 [E] and int32 [E], in any order."""
        order = np.lexsort((targets, client_ids))
        ids, starts = np.unique(client_ids[order], return_index=True)
        return cls(ids, np.append(starts, len(order)), targets[order])

    def batches(self, n_batches: int, generator: np.random.Generator) -> Iterator[EdgeBatch]:
        """Each edge once, in random order, in so many batches of like size; some are empty where edges are too few."""
        for edges in np.array_split(generator.permutation(len(self.targets)), n_batches):
            # an edge is of the client in whose range of ``targets`` it stands
            clients = np.asarray(self.offsets[1:].searchsorted(edges, side="right"))
            targets = self.targets[edges].astype(np.int64)
            yield EdgeBatch(clients, targets, self._is_edge(clients, targets))

    def _is_edge(self, clients: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
        own, row = np.unique(clients, return_inverse=True)
        wanted, column = np.unique(targets, return_inverse=True)
        starts, n_edges = self.offsets[own], self.offsets[own + 1] - self.offsets[own]
        # all edges of the batch's clients, one client after the other
        edges = flat_positions(starts, n_edges)
        found = np.searchsorted(wanted, self.targets[edges])
        # searchsorted gives len(wanted) for a target above all of them, where -1 equals none
        is_wanted = np.append(wanted, -1)[found] == self.targets[edges]
        known = np.zeros((len(own), len(wanted)), dtype=bool)
        known[np.repeat(np.arange(len(own)), n_edges)[is_wanted], found[is_wanted]] = True
        # from different clients and targets back to the batch's, which may come several times
        return known[row][:, column]
