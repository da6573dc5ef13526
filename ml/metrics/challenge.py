"""The scores of the challenge.

Shapes: N clients, n labels. Logits are float32 [N, n], labels integers 0 and 1 [N, n].
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, multilabel_auroc

TOP_LABELS = 10
EPSILON = 1e-9


def auroc(logits: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve; with several labels the mean over them, as torchmetrics has it.

    A label with one class only counts 0 in that mean, which is the organisers' rule too.
    """
    labels = labels.long()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets")
        if logits.shape[1] == 1:
            return float(binary_auroc(logits[:, 0], labels[:, 0]))
        return float(multilabel_auroc(logits, labels, num_labels=logits.shape[1], average="macro"))


def novelty(logits: Tensor, popularity: Tensor) -> float:
    """How far the clients' likeliest labels are from the most popular ones, 0 to 1.

    Parameters
    ----------
    popularity : [n], taken relative to the sum of its 10 largest; where all are 0 nothing is popular
    """
    total = _top(popularity.float()).values.sum()
    weight = popularity.float() / total.clamp_min(torch.finfo(torch.float32).tiny)
    top = _top(torch.sigmoid(logits))  # [N, 10]
    recommended = (top.values * weight[top.indices]).sum(dim=1).mean()
    return float((1 - recommended) ** 100)


def diversity(logits: Tensor) -> float:
    """Mean entropy of the clients' label distributions, relative to that of n equal labels."""
    n_labels = logits.shape[1]
    if n_labels == 1:
        return 0.0
    share = torch.nn.functional.normalize(torch.sigmoid(logits), p=1.0, dim=1)
    entropy = -(share * torch.log2(share + EPSILON)).sum(dim=1)
    return float(entropy.mean() / torch.log2(torch.tensor(n_labels + EPSILON)))


def propensity_score(auroc: float, novelty: float, diversity: float) -> float:
    """The score of a task with several labels.

    >>> round(propensity_score(auroc=0.75, novelty=0.5, diversity=1.0), 4)
    0.75
    """
    return 0.8 * auroc + 0.1 * novelty + 0.1 * diversity


def borda(scores: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Points of each entry: rank k of N in a task gives N - k; entries with equal scores share the best rank.

    Parameters
    ----------
    scores : entry -> task -> score; an entry without a task gets no points for it

    Examples
    --------
    >>> borda({"a": {"churn": 0.7}, "b": {"churn": 0.6}, "c": {"churn": 0.7}})
    {'a': 2, 'b': 0, 'c': 2}
    """
    points = dict.fromkeys(scores, 0)
    for task in {task for of_entry in scores.values() for task in of_entry}:
        in_task = {entry: of_entry[task] for entry, of_entry in scores.items() if task in of_entry}
        for entry, score in in_task.items():
            points[entry] += len(scores) - 1 - sum(other > score for other in in_task.values())
    return points


def _top(values: Tensor) -> torch.return_types.topk:
    return values.topk(min(TOP_LABELS, values.shape[-1]), dim=-1)
