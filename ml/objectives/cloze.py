"""The cloze task: masked tokens are predicted from all others (Sun et al. 2019, sections 3.6 and 3.7)."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.encoders import MaskingSettings
from ml.data.sequence_batch import SequenceBatch
from ml.objectives.item_prediction import ItemPrediction, predict_tokens, require_last_token
from ml.objectives.protocol import TrainingBatch
from schemas.tokens import FIRST_ITEM, MASK, PAD


class Cloze(ItemPrediction):
    """BERT4Rec's task, for encoders that see what comes before and after a masked position."""

    needs_causal: bool | None = False

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator) -> TrainingBatch:
        """A random share of the items masked, see ``mask_tokens``."""
        inputs, is_masked = mask_tokens(batch.token_ids, self.vocabulary.n_tokens, self.settings.masking, generator)
        prepared = predict_tokens(replace(batch, token_ids=inputs), batch.token_ids, is_masked)
        return self.with_negatives(prepared, batch.token_ids, generator)

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """MASK instead of the last tokens."""
        require_last_token(batch.token_ids)
        return replace(batch, token_ids=F.pad(batch.token_ids[:, :-1], (0, 1), value=MASK))


def mask_tokens(
    token_ids: Tensor, n_tokens: int, settings: MaskingSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mask a random share of each row's items (Devlin et al. 2019, A.1).

    Only items are masked, never UNK or PAD. Each row has one or more masked and keeps one or more of its real tokens.
    A share of the rows has its last item alone masked, always by MASK, as when the encoder is asked to predict.

    Parameters
    ----------
    token_ids : int64 [B, L], left-padded with PAD
    n_tokens : V; random replacements are drawn uniformly from the items, [FIRST_ITEM, n_tokens)
    generator : source of randomness, on the device of ``token_ids``; the same seed gives the same masks

    Returns
    -------
    int64 [B, L], what the encoder reads; bool [B, L], where a token is masked

    Raises
    ------
    ValueError
        If a row has fewer than two real tokens, or no item: nothing can be masked in it with a context left.
    """
    _require_context_and_item(token_ids)
    draw = partial(torch.rand, generator=generator, device=generator.device)
    n_rows, width = token_ids.shape
    is_last = torch.arange(width, device=token_ids.device) == width - 1  # [L]
    # a row that ends in UNK has no last item to ask for, and is masked like the others
    is_last_only = (draw((n_rows, 1)) < settings.last_only_share) & (token_ids[:, -1:] >= FIRST_ITEM)  # [B, 1]
    is_chosen = _choose_positions(token_ids, settings.mask_prob, draw(token_ids.shape))
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


def _choose_positions(token_ids: Tensor, mask_prob: float, draws: Tensor) -> Tensor:
    """Bool [B, L]: items whose draw is below ``mask_prob``, the lowest in any case, yet never all of a row."""
    is_item = token_ids >= FIRST_ITEM
    lowest = draws.masked_fill(~is_item, 2.0).amin(dim=1, keepdim=True)
    is_masked = is_item & ((draws < mask_prob) | (draws == lowest))
    is_all_masked = (is_masked == (token_ids != PAD)).all(dim=1, keepdim=True)  # [B, 1]
    highest = draws.masked_fill(~is_masked, -1.0).argmax(dim=1, keepdim=True)
    is_released = torch.zeros_like(is_masked).scatter(1, highest, is_all_masked)
    return is_masked & ~is_released
