"""The items whose vectors are nearest to an item's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ml.models.protocol import SequenceEncoder, evaluating
from schemas.tokens import FIRST_ITEM


def nearest_items(
    encoder: SequenceEncoder, token_ids: Tensor, k: int = 10, chunk_size: int = 50_000
) -> tuple[Tensor, Tensor]:
    """The ``k`` items of highest cosine similarity to each of some tokens, the token itself left out.

    Parameters
    ----------
    token_ids : int64 [N], of items
    k : more than there are other items gives all of them
    chunk_size : items compared at once; memory is N x chunk_size

    Returns
    -------
    int64 [N, k], the neighbours by falling similarity, of equals the lower token id first; float [N, k], the
    similarities

    Raises
    ------
    ValueError
        If a token id is not that of an item of the encoder's vocabulary.
    """
    n_tokens = encoder.vocabulary.n_tokens
    unknown = token_ids[(token_ids < FIRST_ITEM) | (token_ids >= n_tokens)]
    if len(unknown):
        raise ValueError(f"expected items, {FIRST_ITEM} to {n_tokens - 1}, found {int(unknown[0])}")
    n_others = n_tokens - FIRST_ITEM - 1
    found = torch.empty((len(token_ids), 0), dtype=torch.int64, device=token_ids.device)
    similarity = torch.empty((len(token_ids), 0), device=token_ids.device)
    with evaluating(encoder):
        own = F.normalize(encoder.item_vectors(token_ids), dim=1)  # [N, D]
        for start in range(FIRST_ITEM, n_tokens, chunk_size):
            items = torch.arange(start, min(start + chunk_size, n_tokens), device=token_ids.device)
            scores = own @ F.normalize(encoder.item_vectors(items), dim=1).T  # [N, chunk]
            scores = scores.masked_fill(items == token_ids[:, None], -torch.inf)
            # what is kept so far comes first, so that of equals the lower token id does
            similarity = torch.cat([similarity, scores], dim=1)
            found = torch.cat([found, items.expand(len(token_ids), -1)], dim=1)
            # topk would do in less time, but breaks ties as it likes
            similarity, order = similarity.sort(dim=1, descending=True, stable=True)
            found = found.gather(1, order)[:, : min(k, n_others)]
            similarity = similarity[:, : min(k, n_others)]
    return found, similarity
