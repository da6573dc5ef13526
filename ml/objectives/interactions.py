"""What the network of interactions is trained on: what clients buy next, and to know a client by part of its events.

Legend of shapes: B clients, R width of a vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor, is_counted: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Binary cross-entropy: the mean over a head's labels and the clients that it is asked of, summed over the heads.

    Parameters
    ----------
    logits, labels : float [B, sum of sizes]; head after head
    is_counted : bool [B, heads], which clients a head is asked of; a head without any adds nothing
    sizes : labels of each head
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").split(list(sizes), dim=1)
    of_client = torch.stack([own.mean(dim=1) for own in losses], dim=1)  # [B, heads]
    return (torch.where(is_counted, of_client, 0.0).sum(dim=0) / is_counted.sum(dim=0).clamp(min=1)).sum()


def view_loss(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of each client's second view among those of the batch, by cosine / temperature.

    Parameters
    ----------
    one, other : float [B, R], of the same clients
    """
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(one), device=one.device))
