"""The cloze loss: cross-entropy at the hidden positions, over every output or over sampled candidates.

Legend of shapes: M hidden positions of the batch, D hidden, K negatives, U distinct labels of the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.settings import LossSettings
from ml.bert4rec import Bert4Rec
from ml.masking import IGNORE_INDEX, MaskedBatch
from schemas.tokens import FIRST_ITEM, UNK

FIRST_OUTPUT = UNK
"""The outputs are UNK and the items: PAD and MASK can never be the answer."""


def cloze_loss(model: Bert4Rec, batch: MaskedBatch, candidates: Tensor | None) -> tuple[Tensor, int]:
    """The summed loss of a batch and the number of positions it sums over; logits exist at those only.

    Parameters
    ----------
    model : gives token vectors and the table
    batch : of ``ml.masking``
    candidates : negatives for the sampled softmax, int64 [K]; None for the full one

    Returns
    -------
    float scalar, and M
    """
    is_hidden = batch.labels != IGNORE_INDEX  # [B, L]
    vectors = model.output_vectors(model.encode(batch.inputs)[is_hidden])  # [M, D]
    labels = batch.labels[is_hidden]  # [M]
    if candidates is None:
        return full_softmax_loss(vectors, labels, model), len(labels)
    return sampled_softmax_loss(vectors, labels, candidates, model), len(labels)


def full_softmax_loss(vectors: Tensor, labels: Tensor, model: Bert4Rec) -> Tensor:
    """Summed cross-entropy of ``labels`` (int64 [M]) given output vectors [M, D], over every output."""
    outputs = torch.arange(FIRST_OUTPUT, model.n_tokens, device=labels.device)
    return F.cross_entropy(model.logits(vectors, outputs), labels - FIRST_OUTPUT, reduction="sum")


def sampled_softmax_loss(vectors: Tensor, labels: Tensor, negatives: Tensor, model: Bert4Rec) -> Tensor:
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
    labels : int64 [M], the hidden items
    negatives : int64 [K], of ``draw_negatives``
    model : gives the table
    """
    positives, targets = labels.unique(return_inverse=True)  # [U], [M]
    n_items = model.n_tokens - FIRST_ITEM
    is_hit = torch.isin(negatives, positives)  # [K]
    log_count = torch.full_like(negatives, math.log(len(negatives) / n_items), dtype=vectors.dtype)
    logits = torch.cat(
        [
            model.logits(vectors, positives),  # [M, U]
            model.logits(vectors, negatives) - log_count.masked_fill(is_hit, math.inf),  # [M, K]
        ],
        dim=1,
    )
    return F.cross_entropy(logits, targets, reduction="sum")


def draw_negatives(n_tokens: int, n_negatives: int, generator: torch.Generator) -> Tensor:
    """Token ids of uniform items, int64 [n_negatives], drawn with replacement; never PAD, MASK or UNK."""
    return torch.randint(FIRST_ITEM, n_tokens, (n_negatives,), generator=generator, device=generator.device)


def uses_sampled_softmax(settings: LossSettings, n_items: int) -> bool:
    """Whether a vocabulary of ``n_items`` is trained with the sampled softmax."""
    if settings.name == "auto":
        return n_items > settings.full_softmax_max_items
    return settings.name == "sampled"
