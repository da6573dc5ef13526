"""The six tasks of the challenge, in the order of every score table."""

from dataclasses import dataclass

CHURN = "churn"
CONVERSION = "conversion"
PROPENSITY = {
    "propensity_category": "category",
    "propensity_sku": "sku",
    "propensity_price": "price",
    "propensity_new_sku": "sku",
}
"""Task with several labels -> the product column its labels are values of."""

NEW_SKU = "propensity_new_sku"
TASKS = (CHURN, CONVERSION, *PROPENSITY)
TRAIN, VALIDATION = "train", "validation"
WINDOWS = (TRAIN, VALIDATION)

MAX_LABELS = 100
"""Most labels of a propensity task."""


@dataclass(frozen=True)
class TaskScore:
    """One task's result, each number rounded to 4 places.

    Attributes
    ----------
    score, auroc, novelty, diversity : of the best epoch of the organisers' run: their seed, the entry's row order
    mean, std : of the score over the repeats, which differ in seed and row order; std with n - 1 degrees of freedom;
        None with one repeat
    repeats : the score of each repeat, the organisers' run first; None with one
    """

    score: float
    auroc: float
    novelty: float | None = None
    diversity: float | None = None
    mean: float | None = None
    std: float | None = None
    n_repeats: int = 1
    repeats: list[float] | None = None
