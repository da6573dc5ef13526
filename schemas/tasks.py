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
    """One task's result: the best of the probe's epochs, each number rounded to 4 places."""

    score: float
    auroc: float
    novelty: float | None = None
    diversity: float | None = None
