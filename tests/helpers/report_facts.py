"""Facts of a small run for the tests of the report's page, every section filled."""

from datetime import datetime
from functools import cache

import numpy as np

from conf.load import load_config
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts
from jobs.reporting.history import split_training
from jobs.reporting.page import RunFacts, render_page
from schemas.tasks import PROPENSITY, TASKS

DAY = datetime(2022, 11, 1)
WINDOWS = {"mode": "evaluate", "input_end": DAY, "train_start": DAY, "valid_start": DAY, "end": DAY}
CONFIG = load_config("demo")
ENTRIES = {"baseline": 0.5, "product_buy": 0.55, "ensemble": 0.6, "ensemble+baseline": 0.62}


def result(task: str, score: float, n_repeats: int = 1) -> dict:
    """What ``scores.json`` holds of an entry and task, once or of three repeats, which move all entries alike."""
    mean = round(score - 0.0012, 4)
    repeats = [round(mean + 0.0034 * (1 - repeat), 4) for repeat in range(n_repeats)]
    spread = {"mean": mean, "std": 0.0034, "n_repeats": n_repeats, "repeats": repeats} if n_repeats > 1 else {}
    details = {"novelty": 0.9871, "diversity": round(score / 2, 4)} if task in PROPENSITY else {}
    return {"score": score, "auroc": round(score + 0.0101, 4), **details, **spread}


def some_scores(n_repeats: int = 1) -> dict:
    """Scores that are all different."""
    return {
        entry: {task: result(task, round(level + 0.0137 * place, 4), n_repeats) for place, task in enumerate(TASKS)}
        for entry, level in ENTRIES.items()
    }


def some_ablation(n_repeats: int = 1) -> dict:
    """Two blocks, as ``ubp ablate`` writes them."""
    levels = {("all", None): 0.6, ("only", "product_buy"): 0.55, ("only", "baseline"): 0.5,
              ("without", "product_buy"): 0.57, ("without", "baseline"): 0.61}  # fmt: skip
    variants = [
        {"name": f"{kind} {block}", "kind": kind, "block": block, "width": 3,
         "scores": {task: result(task, round(level + 0.0119 * place, 4), n_repeats)
                    for place, task in enumerate(TASKS)}}
        for (kind, block), level in levels.items()
    ]  # fmt: skip
    seconds = {"product_buy": 1234.5}
    return {"blocks": ["product_buy", "baseline"], "repeats": n_repeats, "variants": variants, "seconds": seconds}


def some_metrics() -> list[dict]:
    """One ingest and one training, as ``metrics.jsonl`` tells them."""
    time = "2022-11-01T10:00:00+00:00"
    step = {"time": time, "behaviour": "product_buy", "epoch": 1}
    return [
        {"time": time, "table": "product_buy", "table/rows": 1234, "table/seconds": 1.0},
        {"time": time, "table": "quarantine", "table/rows": 2, "table/seconds": 1.0},
        {"time": time, "source": "product_buy", "ingest/rows_in": 1236, "ingest/rows_kept": 1234,
         "ingest/rows_quarantined": 2, "ingest/duplicates": 5},
        {"time": time, "stage": "ingest", "stage/seconds": 12.34},
        {**step, "step": 0, "begins_at": 0},
        {**step, "step": 50, "train/loss": 4.5, "train/sequences_per_second": 1500.0, "feed/wait_pct": 2.5,
         "memory/peak_gib": 0.75},
        {**step, "step": 100, "train/loss": 4.25, "train/sequences_per_second": 1700.0, "feed/wait_pct": 3.5,
         "memory/peak_gib": 0.81},
        {**step, "step": 100, "validation/ndcg@10": 0.1357, "validation/hr@10": 0.25, "validation/mrr": 0.125,
         "validation/users": 3},
    ]  # fmt: skip


def some_facts(**changes: object) -> RunFacts:
    """A run with something to show in every section."""
    metrics, histories = split_training(some_metrics())
    full = {
        "scores": some_scores(),
        "metrics": metrics,
        "histories": histories,
        "windows": WINDOWS,
        "n_clients": 3,
        "n_active": 1,
        "sequences": {"product_buy": SequenceFacts(2, 6, 1, 5, 0, [(0, 1), (2, 1)])},
        "vocabularies": {"product_buy": VocabularyFacts(2, [(1, 40), (2, 2)])},
        "absent": dict.fromkeys(CONFIG.behaviours, 1.0) | {"product_buy": 1 / 3},
        "quarantine": [("product_buy", "<b>", 2)],
        "profile_map": ProfileMap(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]), (0.75, 0.25), np.array([0, 3, 300])),
        "ablation": some_ablation(),
    }
    return RunFacts(**(full | changes))


def render(facts: RunFacts) -> str:
    return render_page(facts, CONFIG, ["ingest", "train"])


@cache
def full_page() -> str:
    """The page of ``some_facts``: made once, as its figures take a second to draw."""
    return render(some_facts())
