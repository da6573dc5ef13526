"""The cloze task: masked tokens are predicted from all others (Sun et al. 2019, sections 3.6 and 3.7)."""

from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import MaskingSettings
from ml.data.baskets import basket_numbers
from ml.data.segments import run_ends, sequence_least
from ml.data.sequence_batch import SequenceBatch
from ml.objectives.item_prediction import ItemPrediction, predict_tokens, require_last_token
from ml.objectives.protocol import TrainingBatch
from schemas.tokens import FIRST_ITEM, MASK, PAD


class Cloze(ItemPrediction):
    """BERT4Rec's task, for encoders that see what comes before and after a masked position."""

    needs_causal: bool | None = False
    takes_packed = True

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """A random share of the items masked, see ``mask_tokens``."""
        n_tokens, masking = self.vocabulary.n_tokens, self.settings.masking
        baskets = basket_numbers(batch) if masking.unit == "basket" else None
        inputs, is_masked = mask_tokens(batch.token_ids, n_tokens, masking, generator, batch.segments, baskets)
        prepared = predict_tokens(replace(batch, token_ids=inputs), batch.token_ids, is_masked, most_targets)
        return self.with_negatives(prepared, batch, generator)

    def most_targets(self, lengths: NDArray[np.integer], n_positions: int) -> int:
        """The number to expect and six standard deviations: beyond it, masked positions are not asked for."""
        masking = self.settings.masking
        if masking.unit == "basket":
            return n_positions  # a basket may be most of its sequence
        # each draw decides alone, but one token is masked where no draw says so, and one kept where all do
        none, every = (1 - masking.mask_prob) ** lengths, masking.mask_prob**lengths
        by_share = lengths * masking.mask_prob + none - every
        last_only = masking.last_only_share
        expected = last_only + (1 - last_only) * by_share
        variance = (
            lengths * masking.mask_prob * (1 - masking.mask_prob) + last_only * (1 - last_only) * (by_share - 1) ** 2
        )
        return min(n_positions, ceil(expected.sum() + 6 * np.sqrt(variance.sum())))

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """MASK instead of the last tokens, with type and time of the event before: the last one's are not known yet."""
        require_last_token(batch.token_ids)
        index = torch.arange(batch.shape[1])
        index[-1] = max(0, len(index) - 2)
        known = batch.map(lambda column: column[:, index.to(column.device)])
        return replace(known, token_ids=F.pad(batch.token_ids[:, :-1], (0, 1), value=MASK))


def mask_tokens(
    token_ids: Tensor,
    n_tokens: int,
    settings: MaskingSettings,
    generator: torch.Generator,
    segments: Tensor | None = None,
    baskets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mask a random share of each sequence's items (Devlin et al. 2019, A.1).

    Only items are masked, never UNK or PAD. Each sequence has one or more masked and keeps one or more of its real
    tokens. A share of the sequences has its last item alone masked, always by MASK, as when the encoder is asked to
    predict.

    Parameters
    ----------
    token_ids : int64 [B, L]
    n_tokens : V; random replacements are drawn uniformly from the items, [FIRST_ITEM, n_tokens)
    generator : source of randomness, on the device of ``token_ids``; the same seed gives the same masks
    segments : of a ``SequenceBatch``, where sequences share rows
    baskets : int64 [B, L] of ``basket_numbers``, where items of a basket are masked together; a sequence that is one
        basket has its items masked one by one

    Returns
    -------
    int64 [B, L], what the encoder reads; bool [B, L], where a token is masked

    Raises
    ------
    ValueError
        If a row that is one client has fewer than two real tokens, or no item: nothing can be masked in it with a
        context left.
    """
    draw = partial(torch.rand, generator=generator, device=generator.device)
    n_rows, width = token_ids.shape
    is_last = torch.arange(width, device=token_ids.device) == width - 1  # [L]
    if segments is None:
        _require_context_and_item(token_ids)
        chance = draw((n_rows, 1))
    else:  # the feed below has looked: to look here would be to wait for the device
        is_last = run_ends(segments) & (segments > 0)  # [B, L]
        chance = draw((segments.numel() + 1,))[segments]  # one for each sequence, [B, L]
    # a sequence that ends in UNK has no last item to ask for, and is masked like the others
    ends_in_item = sequence_least(~(is_last & (token_ids < FIRST_ITEM)), segments)
    is_last_only = (chance < settings.last_only_share) & ends_in_item  # [B, 1 or L]
    draws = draw(token_ids.shape)
    if baskets is not None:
        # PAD is in no basket: above all numbers it is not the least
        of_tokens = torch.where(token_ids == PAD, width, baskets)
        first, last = sequence_least(of_tokens, segments), -sequence_least(-baskets, segments)
        # one draw for all of a basket: its number picks one of the row's draws
        draws = torch.where(first == last, draws, draw(token_ids.shape).gather(1, baskets))
    is_chosen = _choose_positions(token_ids, segments, settings.mask_prob, draws)
    is_masked = torch.where(is_last_only, is_last, is_chosen)
    fate = draw(token_ids.shape).masked_fill(is_last_only, -1.0)  # below every share: replaced by MASK
    is_random = (fate >= settings.mask_share) & (fate < settings.mask_share + settings.random_share)
    random_items = torch.randint(FIRST_ITEM, n_tokens, token_ids.shape, generator=generator, device=generator.device)
    replacement = torch.where(is_random, random_items, token_ids).masked_fill(fate < settings.mask_share, MASK)
    return torch.where(is_masked, replacement, token_ids), is_masked


def _require_context_and_item(token_ids: Tensor) -> None:
    n_lone = int(((token_ids != PAD).sum(dim=1) < 2).sum())
    if n_lone:
        raise ValueError(f"{n_lone} of {len(token_ids)} rows have fewer than two tokens; the feed must leave them out")
    n_without_item = int((token_ids < FIRST_ITEM).all(dim=1).sum())
    if n_without_item:
        raise ValueError(f"{n_without_item} of {len(token_ids)} rows hold no item; the feed must leave them out")


def _choose_positions(token_ids: Tensor, segments: Tensor | None, mask_prob: float, draws: Tensor) -> Tensor:
    """Bool [B, L]: items whose draw is below ``mask_prob``, the lowest in any case, yet never all of a sequence."""
    is_item = token_ids >= FIRST_ITEM
    # 2: above every draw
    lowest = sequence_least(draws.masked_fill(~is_item, 2.0), segments)
    is_masked = is_item & ((draws < mask_prob) | (draws == lowest))
    is_all_masked = sequence_least(is_masked == (token_ids != PAD), segments)
    # of the masked draws the highest, as the lowest of their negatives
    of_masked = -draws.masked_fill(~is_masked, -1.0)
    is_released = is_all_masked & (of_masked == sequence_least(of_masked, segments))
    return is_masked & ~is_released
