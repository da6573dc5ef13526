"""What is to be learnt of a batch: tokens that are hidden (the cloze task), or each token's next one."""

from typing import NamedTuple

import torch
from torch import Tensor

from conf.encoders import MaskingSettings
from schemas.tokens import FIRST_ITEM, MASK, PAD

IGNORE_INDEX = -100
"""Label of a position that is not hidden; torch's own value."""


class MaskedBatch(NamedTuple):
    """One batch and what is to be predicted in it.

    Attributes
    ----------
    inputs : int64 [B, L], what the model sees
    labels : int64 [B, L], the true token where one is to be predicted, else IGNORE_INDEX
    """

    inputs: Tensor
    labels: Tensor


class HiddenBatch(NamedTuple):
    """A masked batch as the loss reads it; made on the CPU, so that no GPU waits to count hidden tokens.

    Attributes
    ----------
    inputs : int64 [B, L]
    positions : int64 [M], rising: places of the hidden tokens in the flattened ``inputs``
    labels : int64 [M], the true tokens there
    positives : int64 [U], the distinct labels, rising
    targets : int64 [M], each label's place among ``positives``
    """

    inputs: Tensor
    positions: Tensor
    labels: Tensor
    positives: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "HiddenBatch":
        """The same on ``device``; to a GPU from pinned memory, which nobody waits for."""
        if device == self.inputs.device:
            return self
        is_cuda = device.type == "cuda"
        parts = (part.pin_memory() if is_cuda else part for part in self)
        return HiddenBatch(*(part.to(device, non_blocking=is_cuda) for part in parts))


def hidden_batch(masked: MaskedBatch) -> HiddenBatch:
    """Where tokens are hidden, and which."""
    labels = masked.labels.flatten()
    positions = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    labels = labels[positions]
    positives, targets = labels.unique(return_inverse=True)
    return HiddenBatch(masked.inputs, positions, labels, positives, targets)


def mask_tokens(token_ids: Tensor, n_tokens: int, settings: MaskingSettings, generator: torch.Generator) -> MaskedBatch:
    """Hide a random share of each row's items (Sun et al. 2019, sections 3.6 and 3.7; Devlin et al. 2019, A.1).

    Only items are hidden, never UNK or PAD. Each row hides one or more and keeps one or more of its real tokens in
    sight. A share of the rows hides its last item alone, always by MASK, as when the model is asked to predict.

    Parameters
    ----------
    token_ids : int64 [B, L], left-padded with PAD
    n_tokens : V; random replacements are drawn uniformly from the items, [FIRST_ITEM, n_tokens)
    settings : shares of hidden tokens and of what replaces them
    generator : source of randomness, on the device of ``token_ids``; the same seed gives the same masks

    Raises
    ------
    ValueError
        If a row has fewer than two real tokens, or no item: nothing can be hidden in it with a context left.
    """
    _require_context_and_item(token_ids)
    is_last_only = _choose_last_only(token_ids, settings.last_only_share, generator)  # [B, 1]
    is_hidden = torch.where(
        is_last_only, _is_last(token_ids), _choose_positions(token_ids, settings.mask_prob, generator)
    )
    fate = _uniform(token_ids.shape, generator).masked_fill(is_last_only, -1.0)
    is_random = (fate >= settings.mask_share) & (fate < settings.mask_share + settings.random_share)
    random_items = torch.randint(FIRST_ITEM, n_tokens, token_ids.shape, generator=generator, device=generator.device)
    replacement = torch.where(is_random, random_items, token_ids).masked_fill(fate < settings.mask_share, MASK)
    return _hide(token_ids, is_hidden, replacement)


def shift_tokens(token_ids: Tensor) -> MaskedBatch:
    """Have each token predicted from those before it, the task of causal models (Kang and McAuley 2018, section 3.5).

    Every row moves one place to the right: where a token stood, the one before it is seen now. UNK is a label too.

    Parameters
    ----------
    token_ids : int64 [B, L], left-padded with PAD
    """
    inputs = _moved_right(token_ids)
    return MaskedBatch(inputs, labels=token_ids.masked_fill(inputs == PAD, IGNORE_INDEX))


def hide_last(token_ids: Tensor, is_causal: bool) -> MaskedBatch:
    """Have the last token of each row predicted, alone, for validation.

    A bidirectional model finds MASK in its place; a causal one has the row without it, moved to the right.

    Parameters
    ----------
    token_ids : int64 [B, L], left-padded with PAD; a last token UNK is a label too, one that no item can match

    Raises
    ------
    ValueError
        If a row ends in PAD or MASK.
    """
    n_without = int((token_ids[:, -1] <= MASK).sum())
    if n_without:
        raise ValueError(f"{n_without} of {len(token_ids)} rows end in PAD or MASK; expected left-padded tokens")
    masked = _hide(token_ids, _is_last(token_ids), torch.full_like(token_ids, MASK))
    return masked._replace(inputs=_moved_right(token_ids)) if is_causal else masked


def _require_context_and_item(token_ids: Tensor) -> None:
    n_lone = int(((token_ids != PAD).sum(dim=1) < 2).sum())
    if n_lone:
        raise ValueError(f"{n_lone} of {len(token_ids)} rows have fewer than two tokens; the feed must leave them out")
    n_without_item = int((token_ids < FIRST_ITEM).all(dim=1).sum())
    if n_without_item:
        raise ValueError(f"{n_without_item} of {len(token_ids)} rows hold no item; the feed must leave them out")


def _choose_last_only(token_ids: Tensor, share: float, generator: torch.Generator) -> Tensor:
    is_chosen = _uniform((len(token_ids), 1), generator) < share
    return is_chosen & (token_ids[:, -1:] >= FIRST_ITEM)  # [B, 1]


def _choose_positions(token_ids: Tensor, mask_prob: float, generator: torch.Generator) -> Tensor:
    """Bool [B, L]: items whose draw is below ``mask_prob``, the lowest in any case, yet never all of a row."""
    is_item = token_ids >= FIRST_ITEM
    draws = _uniform(token_ids.shape, generator)
    lowest = draws.masked_fill(~is_item, 2.0).amin(dim=1, keepdim=True)
    is_hidden = is_item & ((draws < mask_prob) | (draws == lowest))
    is_all_hidden = (is_hidden == (token_ids != PAD)).all(dim=1, keepdim=True)  # [B, 1]
    highest = draws.masked_fill(~is_hidden, -1.0).argmax(dim=1, keepdim=True)
    is_released = torch.zeros_like(is_hidden).scatter(1, highest, is_all_hidden)
    return is_hidden & ~is_released


def _hide(token_ids: Tensor, is_hidden: Tensor, replacement: Tensor) -> MaskedBatch:
    inputs = torch.where(is_hidden, replacement, token_ids)
    return MaskedBatch(inputs, labels=token_ids.masked_fill(~is_hidden, IGNORE_INDEX))


def _moved_right(token_ids: Tensor) -> Tensor:
    return torch.nn.functional.pad(token_ids[:, :-1], (1, 0), value=PAD)


def _is_last(token_ids: Tensor) -> Tensor:
    is_last = torch.zeros_like(token_ids, dtype=torch.bool)
    is_last[:, -1] = True
    return is_last


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
