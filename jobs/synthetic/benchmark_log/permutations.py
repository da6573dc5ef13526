"""Exact permutations of the numbers below any size, computed one number at a time, and codes by hashing."""

from dataclasses import dataclass
from enum import IntEnum
from math import gcd, sqrt

import numpy as np

from schemas.behaviours import CODES_PER_QUERY


class Use(IntEnum):
    """What a permutation is for: each has a prime of its own."""

    RANK_OF_CLIENT = 2
    NUMBER_OF_EVENT = 3
    SKU = 7
    URL = 11
    CATEGORY = 13
    CATEGORY_OF_SKU = 17
    PRICE_OF_SKU = 19


@dataclass(frozen=True)
class Permutation:
    """``(factor * x + shift) mod size``: a permutation of 0 .. ``size - 1``.

    Attributes
    ----------
    size : at most 3e9, so that the product stays below 2**63
    factor : without a common divisor with ``size``
    """

    size: int
    factor: int
    shift: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Where these numbers go: int64, the shape of ``x``."""
        return (self.factor * x + self.shift) % self.size


def draw_permutation(size: int, seed: int, use: Use) -> Permutation:
    """The permutation of a seed and a use.

    Its factor is about ``size`` times the square root of the use's prime, so that neighbours spread evenly over the
    whole range (Weyl 1916): a block of clients has its share of heavy ones, and a block of events its share of every
    item. Roots of different primes have no rational relation, so two uses tell nothing of each other.
    """
    factor = max(1, round(size * (sqrt(use) % 1.0)))
    # with a common divisor some numbers would come several times and others never
    while gcd(factor, size) > 1:
        factor += 1
    shift = int(np.random.default_rng([seed, use]).integers(size))
    return Permutation(size, factor, shift)


def hash_to_codes(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Codes that look random, the same for the same number and seed: int64 [E] -> uint8 [E, CODES_PER_QUERY].

    Each 8 codes are an output of SplitMix64 (Steele et al. 2014).
    """
    n_words = CODES_PER_QUERY // 8
    state = (numbers[:, None] * n_words + np.arange(n_words) + 1).astype(np.uint64)
    # the seed lies in the bits above those of the numbers
    state = (state + np.uint64(seed << 40 & 2**64 - 1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))).view(np.uint8)
