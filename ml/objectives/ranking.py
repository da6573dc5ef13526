"""Leave-one-out ranking: how high an encoder ranks the item that came last (Sun et al. 2019, section 4.2).

Every item is ranked, none sampled: sampled metrics order models otherwise (Krichene and Rendle 2020).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ml.data.sequence_batch import SequenceBatch
from ml.models.last_states import encode_last
from ml.models.protocol import SequenceEncoder, evaluating
from ml.objectives.protocol import Objective
from schemas.tokens import FIRST_ITEM, PAD

ROWS_AT_ONCE = 256
"""Rows whose scores of a chunk of items are in memory at once, however many a batch has."""
ITEMS_AT_ONCE = 50_000
"""Items scored at once: memory is for each row that many scores, and in a ranking four times as many booleans."""


def rank_last_items(
    encoder: SequenceEncoder,
    objective: Objective,
    batch: SequenceBatch[Tensor],
    left_out: Tensor | None = None,
) -> Tensor:
    """The rank, among all items, of each row's last item when the encoder does not see it; 1 is best.

    Where the objective has ``item_kinds``, among all items of its kind.

    Ties count against the item, and so do scores that are not numbers. A last token UNK is no item: it ranks
    after all of them.

    Parameters
    ----------
    encoder : is left in the mode it is in
    objective : says how the last item is asked for
    batch : tensors, in memory or on the encoder's device
    left_out : int64 [B, S], token ids that are not in a row's ranking, but for the last item itself: those that the
        client has already

    Returns
    -------
    int64 [B], from 1 to the number of items ranked (one more for UNK)
    """
    # before the move to the device: rows are packed on the CPU (encode_last)
    inputs = objective.without_last(batch)
    batch = batch.map(lambda column: column.to(encoder.device))
    token_ids = batch.token_ids  # [B, L]
    last_items = token_ids[:, -1:]  # [B, 1]
    # [B, S]
    removed = token_ids[:, :0] if left_out is None else _distinct_items(left_out.to(encoder.device), last_items)
    with evaluating(encoder):
        vectors = encoder.output_vectors(encode_last(encoder, inputs))  # [B, D]
        pieces = zip(*(rows.split(ROWS_AT_ONCE) for rows in (vectors, last_items, removed)), strict=True)
        kinds = objective.item_kinds
        n_unbeaten = torch.cat([_count_unbeaten(encoder, own, last, seen, kinds) for own, last, seen in pieces])
    is_item = last_items.squeeze(1) >= FIRST_ITEM
    n_ranked = encoder.vocabulary.n_items - (removed >= FIRST_ITEM).sum(dim=1)
    return torch.where(is_item, n_unbeaten, n_ranked + 1)


def _count_unbeaten(
    encoder: SequenceEncoder, vectors: Tensor, last_items: Tensor, removed: Tensor, kinds: Tensor | None
) -> Tensor:
    """Int64 [R], the items that score no less than a row's last one ([R, 1]), itself too, ``removed`` ([R, S]) not.

    With ``kinds`` (integers [V]) those of the last one's kind.
    """
    # of a product as below: summed in another order, ties of items that share a vector would be broken by chance
    own_scores = encoder.logits(vectors, last_items.squeeze(1)).diagonal().unsqueeze(1)  # [R, 1]
    n_unbeaten = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(FIRST_ITEM, encoder.vocabulary.n_tokens, ITEMS_AT_ONCE):
        items = torch.arange(start, min(start + ITEMS_AT_ONCE, encoder.vocabulary.n_tokens), device=vectors.device)
        scores = encoder.logits_between(vectors, start, start + len(items))  # [R, chunk]
        # Rounding may differ from own_scores: the item itself is counted by its id, not by its score.
        is_unbeaten = ~(scores < own_scores) | (items == last_items)  # [R, chunk]
        if kinds is not None:
            is_unbeaten &= kinds[start : start + len(items)] == kinds[last_items]
        columns = removed - start  # [R, S]; those outside of the chunk are counted in another
        is_inside = (columns >= 0) & (columns < len(items))
        n_removed = (is_unbeaten.gather(1, columns.clamp(0, len(items) - 1)) & is_inside).sum(dim=1)
        n_unbeaten += is_unbeaten.sum(dim=1) - n_removed
    return n_unbeaten


def _distinct_items(token_ids: Tensor, but: Tensor) -> Tensor:
    """Each row's items, once; PAD where a token is no item, is the one of ``but`` ([B, 1]) or stands there already."""
    ordered = token_ids.sort(dim=1).values
    is_repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0)) if ordered.shape[1] else ordered.bool()
    return ordered.masked_fill(is_repeated | (ordered < FIRST_ITEM) | (ordered == but), PAD)
