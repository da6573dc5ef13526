"""Texts and vectors -> 16 codes 0-255, fitted by nothing: what is alike shares codes, in every run and every shop.

**Text**: minwise hashing of its words (Broder 1997), the lowest 8 bits of each minimum (Li and König 2010). Two texts
whose words overlap by a share J (Jaccard) have each code in common with probability J + (1 - J) / 256. The order of
words, their repeats, case and punctuation do not matter; words that differ by a letter are different words, and a text
without spaces between words, as in Chinese, is one word.

**Vectors**: the sides of 128 random hyperplanes that a vector lies on (Charikar 2002), 8 to a code. Two vectors at an
angle of a degrees have each code in common with probability (1 - a / 180)^8. Length does not matter.
"""

from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

from schemas.behaviours import CODES_PER_QUERY

SEED = 2025
"""Another one gives other codes: all tables of a shop must be made with the same."""

_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"
_BITS = 8


def text_codes(text: Column) -> Column:
    """``[a b ...]`` of a text's words; null for a text without a letter, digit or any other sign.

    A text of other signs alone, such as an emoji, is one word.
    """
    plain = F.lower(F.trim(text))
    words = F.filter(F.split(plain, _BETWEEN_WORDS), lambda word: word != "")
    words = F.when(F.size(words) > 0, F.array_distinct(words)).when(plain.rlike(r"\S"), F.array(plain))
    # the array gives the words a name: written 16 times, they would be computed 16 times
    codes = F.transform(F.array(words), lambda named: _format(_minima(named)))
    return F.when(words.isNotNull(), F.get(codes, F.lit(0)))


def vector_codes(vector: Column, size: int) -> Column:
    """``[a b ...]`` of an array of numbers; null where it has another size, or a number that is null or not finite."""

    # in numpy: the hyperplanes as an expression of Spark's would be 128 sums over the whole vector
    def encode(vectors: pd.Series) -> pd.Series:
        codes = pd.Series([None] * len(vectors), dtype=object)
        is_good = vectors.map(lambda each: each is not None and len(each) == size and bool(np.isfinite(each).all()))
        if is_good.any():
            rows = encode_vectors(np.stack(vectors[is_good].to_list()))
            codes[is_good] = [f"[{' '.join(map(str, row))}]" for row in rows.tolist()]
        return codes

    return F.pandas_udf(encode, "string")(vector.cast("array<double>"))  # type: ignore[call-overload]


@cache
def hyperplanes(size: int) -> NDArray[np.float64]:
    """The normals of the planes, [128, size]: of numpy's legacy generator, whose numbers are the same for ever."""
    return np.random.RandomState(SEED).standard_normal((CODES_PER_QUERY * _BITS, size))


def encode_vectors(vectors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Codes [n, 16] of vectors [n, size]."""
    # the side of a plane is the sign of the product with its normal
    sides = vectors @ hyperplanes(vectors.shape[1]).T > 0
    return np.packbits(sides.reshape(-1, CODES_PER_QUERY, _BITS), axis=2)[:, :, 0]


def _minima(words: Column) -> list[Column]:
    return [F.array_min(_hashes(words, number)).bitwiseAND(F.lit(255)) for number in range(CODES_PER_QUERY)]


def _hashes(words: Column, number: int) -> Column:
    # the seed is hashed before the word, so that each number has a hash function of its own
    return F.transform(words, lambda word: F.xxhash64(F.lit(SEED + number), word))


def _format(codes: list[Column]) -> Column:
    return F.concat(F.lit("["), F.concat_ws(" ", *(code.cast("string") for code in codes)), F.lit("]"))
