"""The cloze loss: what is made small at the hidden positions, over every output or over sampled ones.

Legend of shapes: M hidden positions of the batch, D hidden, K negatives, U distinct labels of the batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.encoders import LossSettings
from ml.models.transformer import Bert4Rec
from ml.objectives.cloze import HiddenBatch, MaskedBatch, hidden_batch
from schemas.tokens import FIRST_ITEM, UNK

FIRST_OUTPUT = UNK
"""The outputs are UNK and the items: PAD and MASK can never be the answer."""


def chosen_loss(settings: LossSettings, n_items: int) -> Literal["full", "sampled", "gbce"]:
    """The loss that a vocabulary of ``n_items`` is trained with; all but ``full`` need negatives."""
    if settings.name == "auto":
        return "sampled" if n_items > settings.full_softmax_max_items else "full"
    return settings.name


def draw_negatives(n_tokens: int, n_negatives: int, generator: torch.Generator) -> Tensor:
    """Token ids of uniform items, int64 [n_negatives], drawn with replacement; never PAD, MASK or UNK."""
    return torch.randint(FIRST_ITEM, n_tokens, (n_negatives,), generator=generator, device=generator.device)


def cloze_loss(
    model: Bert4Rec, masked: MaskedBatch, negatives: Tensor | None, settings: LossSettings
) -> tuple[Tensor, int]:
    """The summed loss of a batch, float scalar, and M, the number of positions it sums over; see ``hidden_loss``."""
    batch = hidden_batch(masked)
    return hidden_loss(model, batch, negatives, settings), len(batch.labels)


def hidden_loss(model: Bert4Rec, batch: HiddenBatch, negatives: Tensor | None, settings: LossSettings) -> Tensor:
    """The loss summed over the hidden positions, float scalar; the head and the logits see those only.

    Nothing in it waits for the device.

    Parameters
    ----------
    model : gives token vectors and the table
    batch : of ``ml.objectives.cloze``, on the model's device
    negatives : int64 [K], of ``draw_negatives``, on the model's device; None for the full softmax

    Raises
    ------
    ValueError
        If the loss that the settings choose needs negatives and has none.
    """
    name = chosen_loss(settings, model.n_tokens - FIRST_ITEM)
    vectors = model.output_vectors(model.encode_at(batch.inputs, batch.positions))  # [M, D]
    if name == "full":
        return full_softmax_loss(vectors, batch.labels, model)
    if negatives is None:
        raise ValueError(f"loss.name is {name}, which compares with negatives; found none")
    if name == "sampled":
        return sampled_softmax_loss(vectors, batch.positives, batch.targets, negatives, model)
    return gbce_loss(vectors, batch.positives, batch.targets, negatives, model, settings.gbce_t)


def full_softmax_loss(vectors: Tensor, labels: Tensor, model: Bert4Rec) -> Tensor:
    """Summed cross-entropy of ``labels`` (int64 [M]) given output vectors [M, D], over every output."""
    outputs = torch.arange(FIRST_OUTPUT, model.n_tokens, device=labels.device)
    return F.cross_entropy(model.logits(vectors, outputs), labels - FIRST_OUTPUT, reduction="sum")


def sampled_softmax_loss(
    vectors: Tensor, positives: Tensor, targets: Tensor, negatives: Tensor, model: Bert4Rec
) -> Tensor:
    """Summed cross-entropy over candidates that the whole batch shares, corrected for how they were drawn.

    The candidates are the U distinct labels of the batch and the K uniform negatives. Each logit is lowered by
    the log of the candidate's expected count Q, given the batch (Bengio and Senecal 2008; ``log Q`` of
    ``tf.nn.sampled_softmax_loss`` and of Yi et al. 2019):

    - a label of the batch is a candidate once, with certainty: Q = 1;
    - any other item comes K / n_items times on average: Q = K / n_items.

    A negative that is a label of the batch, a row's own above all, is an accidental hit and is removed: that item
    is counted already. The sum of exp(logit) / Q then has the sum over all items as its mean.

    Parameters
    ----------
    vectors : float [M, D], output vectors
    positives : int64 [U], the distinct labels, rising
    targets : int64 [M], each hidden item's place among ``positives``
    negatives : int64 [K], of ``draw_negatives``
    model : gives the table
    """
    n_items = model.n_tokens - FIRST_ITEM
    nearest = torch.searchsorted(positives, negatives).clamp(max=len(positives) - 1)
    is_hit = positives[nearest] == negatives  # [K]
    log_count = torch.where(is_hit, math.inf, math.log(len(negatives) / n_items))
    log_counts = torch.cat([log_count.new_zeros(len(positives)), log_count])  # [U + K]
    logits = model.logits(vectors, torch.cat([positives, negatives]))  # [M, U + K]
    return F.cross_entropy(logits - log_counts, targets, reduction="sum")


def gbce_loss(
    vectors: Tensor, positives: Tensor, targets: Tensor, negatives: Tensor, model: Bert4Rec, t: float
) -> Tensor:
    """Summed generalised binary cross-entropy (gSASRec, Petrov and Macdonald 2023, arXiv:2308.07192, section 5).

    One position's loss is -(beta log sigmoid(s) + sum over negatives of log(1 - sigmoid(s-))) / (K + 1), where
    alpha = K / (n_items - 1) is the share of negatives that is seen and beta = alpha (t (1 - 1/alpha) + 1/alpha) tames
    the overconfidence that sampling causes. The negatives are shared by the batch; one that is a row's own label is
    an accidental hit and is removed from that row.

    Parameters
    ----------
    vectors : float [M, D], output vectors
    positives : int64 [U], the distinct labels
    targets : int64 [M], each hidden item's place among ``positives``
    negatives : int64 [K], of ``draw_negatives``
    model : gives the table
    t : 0 (plain binary cross-entropy) to 1 (scores as of a softmax over all items)
    """
    alpha = min(1.0, len(negatives) / max(1, model.n_tokens - FIRST_ITEM - 1))
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    # to float32: autocast gives bfloat16, and unlike cross_entropy what follows would stay so
    logits = model.logits(vectors, torch.cat([positives, negatives])).float()  # [M, U + K]
    own, others = logits[:, : len(positives)].gather(1, targets.unsqueeze(1)), logits[:, len(positives) :]
    is_hit = positives[targets].unsqueeze(1) == negatives  # [M, K]
    positive_part = -beta * F.logsigmoid(own).sum()
    negative_part = F.softplus(others.masked_fill(is_hit, -math.inf)).sum()
    return (positive_part + negative_part) / (len(negatives) + 1)
