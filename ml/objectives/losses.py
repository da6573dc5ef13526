"""Losses of logits over the labels of a batch and sampled negatives.

Legend of shapes: M predicted positions of a batch, K negatives, U labels of the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.tokens import PAD

NO_LABEL = -100
"""Of a position that is none of the targets (``ignore_index`` of ``torch.nn.functional.cross_entropy``)."""
LEAST_PROBABILITY = 1e-10
"""Of an item to be drawn, where it is divided by."""
NO_NEGATIVE = -1e9
"""Logit of what is no negative; finite, so that a position without any has a loss of 0 and no NaN."""


def sampled_softmax_loss(logits: Tensor, columns: Tensor, positives: Tensor, negatives: Tensor, n_items: int) -> Tensor:
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
    logits : float [M, U + K], of ``positives`` and then of ``negatives``
    columns : int64 [M], which of ``positives`` is right, the first of equal ones; ``NO_LABEL`` where nothing is asked
    positives : int64 [U], the labels, rising; each counts once, however often it stands there, and PAD never
    negatives : int64 [K], uniform items, drawn with replacement
    """
    # clamped: a negative above all labels gets their number, which is no position
    nearest = torch.searchsorted(positives, negatives).clamp(max=len(positives) - 1)
    is_hit = positives[nearest] == negatives  # [K]
    # a logit minus infinity leaves its candidate out of the sum
    log_count = torch.where(is_hit, math.inf, math.log(len(negatives) / n_items))
    log_counts = torch.cat([torch.where(is_extra(positives), math.inf, 0.0), log_count])  # [U + K]
    return F.cross_entropy(logits - log_counts, columns, ignore_index=NO_LABEL, reduction="sum")


def is_extra(positives: Tensor) -> Tensor:
    """Bool [U], which of rising labels (int64 [U]) repeat the one before them or are PAD, as packed rows have them."""
    return F.pad(positives[1:] == positives[:-1], (1, 0)) | (positives == PAD)


def gbce_loss(logits: Tensor, columns: Tensor, positives: Tensor, negatives: Tensor, n_items: int, t: float) -> Tensor:
    """Summed generalised binary cross-entropy (gSASRec, Petrov and Macdonald 2023, arXiv:2308.07192, section 5).

    One position's loss is -(beta log sigmoid(s) + sum over negatives of log(1 - sigmoid(s-))) / (K + 1). The share of
    negatives that is seen is alpha = K / (n_items - 1); beta = alpha (t (1 - 1/alpha) + 1/alpha) tames the
    overconfidence that sampling causes. The negatives are shared by the batch; one that is a row's own label is an
    accidental hit and is removed from that row.

    Parameters
    ----------
    logits, columns, positives, negatives : as for ``sampled_softmax_loss``; the labels in any order
    t : 0 (plain binary cross-entropy) to 1 (scores as of a softmax over all items)
    """
    alpha = min(1.0, len(negatives) / max(1, n_items - 1))
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    # to float32: autocast gives bfloat16, and unlike cross_entropy what follows would stay so
    logits = logits.float()
    is_asked = (columns != NO_LABEL).unsqueeze(1)  # [M, 1]
    columns = columns.clamp(min=0)
    own, others = logits[:, : len(positives)].gather(1, columns.unsqueeze(1)), logits[:, len(positives) :]
    is_hit = positives[columns].unsqueeze(1) == negatives  # [M, K]
    positive_part = -beta * (F.logsigmoid(own) * is_asked).sum()
    # softplus of minus infinity is 0
    negative_part = F.softplus(others.masked_fill(is_hit | ~is_asked, -math.inf)).sum()
    return (positive_part + negative_part) / (len(negatives) + 1)


def bce_loss(logits: Tensor, is_target: Tensor) -> Tensor:
    """Summed mean binary cross-entropy of each label and its own negatives (Kang and McAuley 2018, section 3.6).

    Parameters
    ----------
    logits : float [M, 1 + K], of a position's label and then of its negatives
    is_target : bool [M], where something is asked for
    """
    logits = logits.float()
    terms = torch.cat([F.softplus(-logits[:, :1]), F.softplus(logits[:, 1:])], dim=1)
    return torch.where(is_target, terms.mean(dim=1), 0.0).sum()


def bpr_max_loss(
    logits: Tensor, columns: Tensor, positives: Tensor, negatives: Tensor, regularisation: float
) -> Tensor:
    """Summed BPR-max (GRU4Rec, Hidasi and Karatzoglou 2018, arXiv:1706.03847, section 3.3).

    One position's loss is -log sum_j s_j sigmoid(r - r_j) + regularisation * sum_j s_j r_j^2 over negatives j, where
    s is the softmax of their scores. All labels of the batch and the drawn items are negatives of a position, but for
    its own label.

    Parameters
    ----------
    logits, columns, positives, negatives : as for ``sampled_softmax_loss``
    """
    logits = logits.float()
    is_target, columns = columns >= 0, columns.clamp(min=0)
    candidates = torch.cat([positives, negatives])  # [U + K]
    is_nobodys = F.pad(is_extra(positives), (0, len(negatives)))  # [U + K]
    is_left_out = (candidates == positives[columns].unsqueeze(1)) | is_nobodys  # [M, U + K]
    # finite: where nothing but the label is at hand, a softmax of nothing would be no number
    weights = logits.masked_fill(is_left_out, torch.finfo(logits.dtype).min).log_softmax(dim=1)  # logarithms of s
    gaps = F.logsigmoid(logits.gather(1, columns.unsqueeze(1)) - logits)
    ranking = -torch.logsumexp(weights + gaps, dim=1)
    penalty = (weights.exp() * logits.square()).sum(dim=1)
    return torch.where(is_target, ranking + regularisation * penalty, 0.0).sum()


def in_batch_softmax_loss(own: Tensor, logits: Tensor, counts: Tensor) -> Tensor:
    """Summed cross-entropy of each label against those of its batch, uncorrected for how often these are drawn.

    Parameters
    ----------
    own : float [M], the logit of each label
    logits : float [M, U], of the candidates
    counts : float [M, U], how often each is drawn as a negative; 0 for a position's own label
    """
    own, negatives = own.float(), _drawn(logits, counts)
    return (torch.logaddexp(own, negatives.logsumexp(dim=1)) - own).sum()


def corrected_log_q_loss(own: Tensor, logits: Tensor, counts: Tensor, probabilities: Tensor, n_draws: Tensor) -> Tensor:
    """Summed softmax loss with the corrected log-Q (Khrylchenko et al. 2025, arXiv:2507.09331).

    One position's loss is -w log(exp(s) / sum over negatives of exp(s- - log Q)): its own item is no candidate of
    the sum, for it is no draw. The weight w is 1 - P, and no gradient goes through it. P is the softmax of s among the
    s- - log Q - log n of n draws, an estimate of how probable the model holds the item to be. This loss is no
    likelihood and may be negative.

    Parameters
    ----------
    own, logits, counts : as for ``in_batch_softmax_loss``
    probabilities : float [M, U], Q, with which one draw gives this candidate
    n_draws : float [M], n, hits among them
    """
    log_q = probabilities.clamp(min=LEAST_PROBABILITY).log()
    excess = (_drawn(logits, counts) - log_q).logsumexp(dim=1) - own.float()
    # 1 - P, by its log odds; 0 where there is no negative
    weight = (excess - n_draws.clamp(min=1).log()).sigmoid().detach()
    return (weight * excess).sum()


def _drawn(logits: Tensor, counts: Tensor) -> Tensor:
    """The logits of candidates, float32 [M, U], once for each time that they are drawn as negatives."""
    # autocast gives bfloat16
    return (logits.float() + counts.clamp(min=1).log()).masked_fill(counts == 0, NO_NEGATIVE)
