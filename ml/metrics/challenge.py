"""The scores of the challenge.

Shapes: N clients, n labels. Logits are float32 [N, n], labels integers 0 and 1 [N, n].
"""

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

TOP_LABELS = 10
ROWS_AT_ONCE = 65_536
EPSILON = 1e-9


def auroc(logits: Tensor, columns: Iterable[Tensor], batch_size: int | None = None) -> float:
    """Area under the ROC curve; with several labels the mean over them, as torchmetrics' ``multilabel_auroc`` has it.

    A label with one class only counts 0 in that mean, which is the organisers' rule too. One label at a time: all of
    them at once take ten times the memory of the logits.

    Parameters
    ----------
    columns : n of int64 [N], the labels' 0 and 1
    batch_size : rows that torchmetrics is given at a time; all where None
    """
    # torchmetrics' rule: a batch with a number beyond 0 to 1, in whatever column, holds no probabilities
    low, high = logits.aminmax(dim=1)
    batches = ((low < 0) | (high > 1)).split(batch_size or len(logits))
    is_logits = torch.cat([batch.any().expand(len(batch)) for batch in batches])  # [N]
    areas = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets")
        for number, column in enumerate(columns):
            own = logits[:, number].contiguous()
            areas.append(binary_auroc(torch.where(is_logits, own.sigmoid(), own), column))
    return float(torch.stack(areas).mean())


def novelty(logits: Tensor, popularity: Tensor) -> float:
    """How far the clients' likeliest labels are from the most popular ones, 0 to 1.

    Parameters
    ----------
    popularity : [n], taken relative to the sum of its 10 largest; where all are 0 nothing is popular
    """
    total = _top(popularity.float()).values.sum()
    weight = popularity.float() / total.clamp_min(torch.finfo(torch.float32).tiny)

    def recommend(part: Tensor) -> Tensor:
        top = _top(torch.sigmoid(part))  # [N, 10]
        return (top.values * weight[top.indices]).sum(dim=1)

    # the organisers' exponent: without it the novelty of nearly all entries would be close to 1
    return float((1 - _mean_of_rows(recommend, logits)) ** 100)


def diversity(logits: Tensor) -> float:
    """Mean entropy of the clients' label distributions, relative to that of n equal labels."""
    n_labels = logits.shape[1]
    # of one label both logarithms below are 0
    if n_labels == 1:
        return 0.0

    def entropy(part: Tensor) -> Tensor:
        share = torch.nn.functional.normalize(torch.sigmoid(part), p=1.0, dim=1)
        return -(share * torch.log2(share + EPSILON)).sum(dim=1)

    return float(_mean_of_rows(entropy, logits) / torch.log2(torch.tensor(n_labels + EPSILON)))


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


def _mean_of_rows(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """The mean over all rows of what a function makes of each; a part of them at a time, for its copies of the part."""
    return torch.cat([function(part) for part in logits.split(ROWS_AT_ONCE)]).mean()


def _top(values: Tensor) -> torch.return_types.topk:
    return values.topk(min(TOP_LABELS, values.shape[-1]), dim=-1)
