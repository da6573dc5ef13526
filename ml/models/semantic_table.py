"""Vectors by semantic ids: items of like codes share vectors, by residual k-means on the codes of their names.

Semantic ids as of TIGER (Rajput et al. 2023, arXiv:2305.05065), with k-means in place of its residual autoencoder.

Legend of shapes: V tokens, D hidden, N rows that are clustered, K clusters.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_embeddings import INIT_STD, HashedTable

N_LEVELS, N_CLUSTERS = 3, 256
"""Of the ids of an item; each level clusters what the one before left over."""
SAMPLE, ITERATIONS, ROWS_AT_ONCE = 32_768, 10, 65_536
"""Items that clusters are fitted on; rounds of it; items that are assigned at once."""
SEED = 2305_05065
"""Of samples and first centres; any number would do, this is TIGER's on arXiv."""


class SemanticTable(HashedTable):
    """The sum of a vector for each of an item's three ids, and of two hashed rows of its own.

    The hashed rows keep items of equal ids apart, and stand alone where an item has no codes, such as a url.

    Attributes
    ----------
    ids : int16 [V, 3], 0 where there are no codes, else 1 + cluster; fitted when the table is made from the
        vocabulary's attributes, and saved with the model
    """

    ids: Tensor

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        super().__init__(settings.hidden_size, settings.table_rows)
        self.parts = nn.Parameter(torch.empty(N_LEVELS, 1 + N_CLUSTERS, settings.hidden_size))
        ids = np.zeros((vocabulary.n_tokens, N_LEVELS), np.int16)
        if vocabulary.attributes is not None:
            ids = semantic_ids(vocabulary.attributes.codes)
        self.register_buffer("ids", torch.tensor(ids))

    def initialise(self) -> None:
        """Draw new values; the vector that stands for no codes is zero and stays so."""
        super().initialise()
        nn.init.normal_(self.parts, std=INIT_STD)

    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        vectors = super().vectors(token_ids)
        ids = self.ids[token_ids].long()  # [..., 3]
        for level, part in enumerate(self.parts):
            vectors = vectors + F.embedding(ids[..., level], part).masked_fill(ids[..., level, None] == 0, 0.0)
        return vectors


def semantic_ids(codes: NDArray[np.integer]) -> NDArray[np.int16]:
    """Int16 [V, 3], the clusters, from 1, of rows of codes (integers [V, 16]); 0 for a row of zeros, which has none."""
    is_known = codes.any(axis=1)
    left = torch.from_numpy(codes[is_known].astype(np.float32))  # what no level has explained yet
    ids = np.zeros((len(codes), N_LEVELS), np.int16)
    generator = np.random.default_rng(SEED)
    for level in range(N_LEVELS if len(left) else 0):
        centres = _fit_centres(left, generator)
        nearest = torch.cat([torch.cdist(rows, centres).argmin(dim=1) for rows in left.split(ROWS_AT_ONCE)])
        ids[is_known, level] = 1 + nearest.numpy()
        left = left - centres[nearest]
    return ids


def _fit_centres(rows: Tensor, generator: np.random.Generator) -> Tensor:
    """Float [K, C], the centres of Lloyd's k-means on a sample of rows (float [N, C]); K is at most ``N_CLUSTERS``."""
    if len(rows) > SAMPLE:
        rows = rows[torch.from_numpy(generator.choice(len(rows), SAMPLE, replace=False))]
    # of different rows, or centres that begin equal would leave clusters empty
    different = rows.unique(dim=0)
    first = generator.choice(len(different), min(N_CLUSTERS, len(different)), replace=False)
    centres = different[torch.from_numpy(first)]
    for _ in range(ITERATIONS):
        nearest = torch.cdist(rows, centres).argmin(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        counts = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        # a cluster that lost all its rows keeps its centre, not a division by none
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres
