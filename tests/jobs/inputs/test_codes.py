"""Texts and vectors that are alike share codes, in every run."""

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.inputs.codes import encode_vectors, text_codes, vector_codes


def n_shared(one: str, other: str) -> int:
    return sum(a == b for a, b in zip(one.strip("[]").split(), other.strip("[]").split(), strict=True))


def test_texts_share_codes_as_they_share_words(spark: SparkSession) -> None:
    texts = [
        "blue cotton shirt",
        "Shirt, blue -- COTTON! shirt",
        "blue cotton shirt xl",
        "green tea",
        "Żółw 龟",
        "!?",
        " ",
    ]
    vectors = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 2.0], [1.0, None, 3.0], [float("nan")] * 3, None, None]
    rows = list(zip(texts, vectors, strict=True))
    frame = spark.createDataFrame(rows, "text string, vector array<float>")
    found = frame.select(text_codes(F.col("text")), vector_codes(F.col("vector"), 3)).collect()
    codes, of_vectors = [row[0] for row in found], [row[1] for row in found]
    assert codes[0] == codes[1] == "[18 26 8 210 8 166 69 124 222 3 55 196 24 76 25 229]", "the same in every version"
    assert 8 <= n_shared(codes[0], codes[2]) < 16  # 3 of 4 words: 12 expected
    assert n_shared(codes[0], codes[3]) <= 2
    assert [code is None for code in codes] == [False] * 6 + [True]
    assert of_vectors[0] == of_vectors[1] == "[103 209 161 0 124 237 36 107 218 62 188 117 32 64 1 129]"
    assert of_vectors[2:] == [None] * 5


def test_vectors_share_codes_as_their_angle_says() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((200, 64))
    for degrees in (5.0, 20.0):
        others = generator.standard_normal(vectors.shape)
        others -= (others * vectors).sum(1, keepdims=True) / (vectors**2).sum(1, keepdims=True) * vectors
        others *= np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(others, axis=1, keepdims=True)
        turned = np.cos(np.radians(degrees)) * vectors + np.sin(np.radians(degrees)) * others
        share = (encode_vectors(vectors) == encode_vectors(turned)).mean()
        assert abs(share - (1 - degrees / 180) ** 8) < 0.03
