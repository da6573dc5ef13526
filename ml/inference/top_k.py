"""The items whose vectors are nearest to an item's, and those that a sequence is most likely to go on with."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ml.data.batching import like_length_batches
from ml.data.sequence_batch import Sequences
from ml.models.last_states import encode_last
from ml.models.protocol import SequenceEncoder, evaluating
from ml.objectives.protocol import Objective
from ml.objectives.ranking import ITEMS_AT_ONCE, ROWS_AT_ONCE
from schemas.tokens import FIRST_ITEM, UNK


def nearest_items(encoder: SequenceEncoder, token_ids: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """The ``k`` items of highest cosine similarity to each of some tokens, the token itself left out.

    Parameters
    ----------
    token_ids : int64 [N], of items
    k : more than there are other items gives all of them

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
    # the best so far, chunk by chunk: the scores of all items at once would not fit into memory
    found = torch.empty((len(token_ids), 0), dtype=torch.int64, device=token_ids.device)
    similarity = torch.empty((len(token_ids), 0), device=token_ids.device)
    with evaluating(encoder):
        own = F.normalize(encoder.item_vectors(token_ids), dim=1)  # [N, D]
        for start in range(FIRST_ITEM, n_tokens, ITEMS_AT_ONCE):
            items = torch.arange(start, min(start + ITEMS_AT_ONCE, n_tokens), device=token_ids.device)
            scores = own @ F.normalize(encoder.item_vectors(items), dim=1).T  # [N, chunk]
            scores = scores.masked_fill(items == token_ids[:, None], -torch.inf)
            found, similarity = _keep_best(found, similarity, scores, start, min(k, n_others))
    return found, similarity


def next_items(
    encoder: SequenceEncoder, objective: Objective, sequences: Sequences, k: int, with_seen: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` items that the encoder scores highest as each sequence's next, asked for as validation asks.

    Parameters
    ----------
    encoder : with a ``max_length`` of 2 or more: one event is that which is asked for
    objective : that the encoder was trained on; says how the next item is asked for
    k : more than there are items gives all of them
    with_seen : also items that the sequence holds

    Returns
    -------
    int64 [N, k], token ids by falling score, of equals the lower first; float32 [N, k], the scores. An item is -1 where
    the sequence holds nearly all of them and there is no other.
    """
    k = min(k, encoder.vocabulary.n_items)
    found = np.empty((len(sequences), k), np.int64)
    scores = np.empty((len(sequences), k), np.float32)
    # one less, for the event that is asked for
    lengths = np.minimum(sequences.lengths, encoder.max_length - 1)
    with evaluating(encoder):
        for rows in like_length_batches(lengths + 1, ROWS_AT_ONCE * encoder.max_length):
            batch = sequences.batch(rows, width=int(lengths[rows].max())).tensors()
            # one more event, at the time of the last: which item it is, the objective hides. UNK, for objectives refuse
            # rows that end in PAD or MASK
            asked = batch.map(lambda column: torch.cat([column, column[:, -1:]], dim=1))
            asked.token_ids[:, -1] = UNK
            vectors = encoder.output_vectors(encode_last(encoder, objective.without_last(asked)))  # [B, D]
            seen = batch.token_ids.to(vectors.device)
            for part in torch.arange(len(rows)).split(ROWS_AT_ONCE):
                items, best = _best_items(encoder, vectors[part], None if with_seen else seen[part], k)
                found[rows[part]], scores[rows[part]] = items.cpu().numpy(), best.cpu().numpy()
    return found, scores


def _best_items(encoder: SequenceEncoder, vectors: Tensor, left_out: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Items int64 [R, k] of highest scores float [R, k]; -1 and -inf where all others are left out.

    Parameters
    ----------
    left_out : token ids int64 [R, L]
    """
    items = torch.empty((len(vectors), 0), dtype=torch.int64, device=vectors.device)
    best = torch.empty((len(vectors), 0), device=vectors.device)
    for start in range(FIRST_ITEM, encoder.vocabulary.n_tokens, ITEMS_AT_ONCE):
        end = min(start + ITEMS_AT_ONCE, encoder.vocabulary.n_tokens)
        scores = encoder.logits_between(vectors, start, end).float()  # [R, chunk]
        if left_out is not None:
            # in a column more, those that are in no other
            columns = torch.where((left_out >= start) & (left_out < end), left_out - start, end - start)
            scores = F.pad(scores, (0, 1)).scatter(1, columns, -torch.inf)[:, :-1]
        items, best = _keep_best(items, best, scores, start, k)
    return items.masked_fill(best == -torch.inf, -1), best


def _keep_best(items: Tensor, best: Tensor, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` items of highest scores, of equals the lower token id first, and these scores, [R, k] or fewer.

    Parameters
    ----------
    items, best : what is kept so far, int64 and float [R, n]
    scores : of the items from ``start`` on, float [R, chunk]
    """
    own, tokens = scores.topk(min(k, scores.shape[1]), dim=1)
    # of items that score as the last one does, topk takes any; a sort of all scores would cost more than it
    is_tied = (scores >= own[:, -1:]).sum(dim=1) > own.shape[1]
    if is_tied.any():
        own[is_tied], tokens[is_tied] = (
            part[:, : own.shape[1]] for part in scores[is_tied].sort(dim=1, descending=True, stable=True)
        )
    # by token id before the stable sort by score: of equals the lower id comes first
    items, order = torch.cat([items, tokens + start], dim=1).sort(dim=1)
    best, order = torch.cat([best, own], dim=1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return items.gather(1, order)[:, :k], best[:, :k]
