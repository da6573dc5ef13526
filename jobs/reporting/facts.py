"""Small aggregates of a run's tables: all that the report collects from Spark."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas.columns import BEHAVIOUR, CLIENT_ID, IS_ACTIVE, N_EVENTS, POSITION, TOKEN_ID, VECTOR
from schemas.tokens import FIRST_ITEM

MAX_REASONS = 100
"""Most lines of the quarantine table."""
MAX_MAPPED_CLIENTS = 2_000

# 20 ranks for each power of ten: a curve of a million items needs no more
_RANKS = sorted({round(10 ** (number / 20)) for number in range(20 * 9)})


@dataclass(frozen=True)
class SequenceFacts:
    """One behaviour's sequences; lengths count events before truncation.

    Attributes
    ----------
    histogram : (k, clients with 2^k to 2^(k+1) - 1 events), by k
    n_truncated : clients with more events than the sequence keeps
    """

    n_clients: int
    n_events: int
    median_length: int
    max_length: int
    n_truncated: int
    histogram: list[tuple[int, int]]


@dataclass(frozen=True)
class VocabularyFacts:
    """One behaviour's vocabulary; ``curve`` holds (rank, events of that item) at log-spaced ranks."""

    n_items: int
    curve: list[tuple[int, int]]


@dataclass(frozen=True)
class ProfileMap:
    """A sample of profiles on the plane that keeps most of their variance.

    Attributes
    ----------
    points : float64 [n, 2]
    explained : share of the sample's variance along each axis
    n_events : int64 [n], events of each client in all its sequences, before truncation
    """

    points: NDArray[np.float64]
    explained: tuple[float, float]
    n_events: NDArray[np.int64]


def collect_sequence_facts(sequences: DataFrame, limits: dict[str, int]) -> dict[str, SequenceFacts]:
    """Counts and the length histogram of every stream that has sequences, in the order of ``limits``.

    Parameters
    ----------
    limits : stream -> most events kept of a client
    """
    limit = F.create_map(*chain.from_iterable((F.lit(name), F.lit(value)) for name, value in limits.items()))
    is_truncated = F.col(N_EVENTS) > limit[F.col(BEHAVIOUR)]
    totals = _collect_counts(
        sequences.groupBy(BEHAVIOUR).agg(
            F.count("*").alias("n_clients"),
            F.sum(N_EVENTS).alias("n_events"),
            F.percentile_approx(N_EVENTS, 0.5).alias("median_length"),
            F.max(N_EVENTS).alias("max_length"),
            F.count_if(is_truncated).alias("n_truncated"),
        )
    )
    # by its bits: the logarithm of a power of two may be a little less than a whole number
    power = (F.length(F.bin(N_EVENTS)) - 1).alias("power")
    bins = sequences.groupBy(BEHAVIOUR, power).agg(F.count("*").alias("n")).collect()
    histograms = {name: sorted((row.power, row.n) for row in bins if row[BEHAVIOUR] == name) for name in totals}
    return {name: SequenceFacts(**totals[name], histogram=histograms[name]) for name in limits if name in totals}


def collect_vocabulary_facts(vocabularies: DataFrame, names: Sequence[str]) -> dict[str, VocabularyFacts]:
    """Size and rank-frequency curve of every vocabulary that has items; the token id is the rank."""
    items = vocabularies.where(F.col(TOKEN_ID) >= FIRST_ITEM)
    sizes = _collect_counts(items.groupBy(BEHAVIOUR).agg(F.count("*").alias("n_items")))
    rank = (F.col(TOKEN_ID) - FIRST_ITEM + 1).alias("rank")
    points = items.where(rank.isin(_RANKS)).select(BEHAVIOUR, rank, N_EVENTS).collect()
    curves = {name: sorted((row["rank"], row[N_EVENTS]) for row in points if row[BEHAVIOUR] == name) for name in sizes}
    return {name: VocabularyFacts(**sizes[name], curve=curves[name]) for name in names if name in sizes}


def collect_client_counts(clients: DataFrame) -> tuple[int, int]:
    """Number of relevant clients, and of those with a purchase in the input window."""
    n_clients, n_active = clients.agg(F.count("*"), F.count_if(F.col(IS_ACTIVE))).collect()[0]
    return n_clients, n_active


def collect_quarantine(quarantine: DataFrame) -> list[tuple[str, str, int]]:
    """(source, reason, rows) by falling rows, the first ``MAX_REASONS``."""
    counts = quarantine.groupBy("source", "reason").agg(F.count("*").alias("n_rows"))
    ordered = counts.orderBy(F.desc("n_rows"), "source", "reason").limit(MAX_REASONS)
    return [(row["source"], row["reason"], row["n_rows"]) for row in ordered.collect()]


def collect_profile_map(profiles: DataFrame, sequences: DataFrame, n_clients: int) -> ProfileMap | None:
    """Every k-th client's profile, at most ``MAX_MAPPED_CLIENTS``, on their first two principal axes.

    None where there are too few profiles to span a plane.

    Parameters
    ----------
    profiles : one row per client: position, client_id, vector
    """
    step = max(1, -(-n_clients // MAX_MAPPED_CLIENTS))
    sampled = profiles.where(F.col(POSITION) % step == 0)
    rows = sampled.select(POSITION, VECTOR).orderBy(POSITION).collect()
    vectors = np.array([row[VECTOR] for row in rows], dtype=np.float64)
    # of no rows the array has one axis
    if vectors.ndim != 2 or min(vectors.shape) < 3:
        return None
    # the sample is MAX_MAPPED_CLIENTS rows at most: the sequences need not move
    of_client = F.broadcast(sampled.select(POSITION, CLIENT_ID)).join(sequences, CLIENT_ID)
    totals = of_client.groupBy(POSITION).agg(F.sum(N_EVENTS).alias(N_EVENTS))
    events_at = {row[POSITION]: row[N_EVENTS] for row in totals.collect()}
    points, explained = principal_plane(vectors)
    counts = np.array([events_at.get(row[POSITION], 0) for row in rows], dtype=np.int64)
    return ProfileMap(points, explained, counts)


def principal_plane(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Coordinates [n, 2] on the first two principal axes, and the share of variance along each.

    An axis may point either way: it is turned so that its largest loading is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(axes[:2]).argmax(axis=1)
    turn = np.where(axes[[0, 1], largest] < 0, -1.0, 1.0)
    # equal profiles have no variance to share
    shares = spread**2 / max(float((spread**2).sum()), 1e-12)
    return centred @ (axes[:2] * turn[:, None]).T, (float(shares[0]), float(shares[1]))


def _collect_counts(frame: DataFrame) -> dict[str, dict[str, int]]:
    """Behaviour -> the other columns of its one row."""
    rows = [row.asDict() for row in frame.collect()]
    return {row.pop(BEHAVIOUR): row for row in rows}
