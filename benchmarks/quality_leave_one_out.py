"""Ranking quality on published data: the last item of each user tested, the one before validated, all items ranked.

    python benchmarks/quality_leave_one_out.py --data DIR/ml-1m.parquet --out OUT --recipe ml-1m --minutes 60

``leave_one_out.py`` describes the data file; items of fewer than five interactions are dropped. The model trains by the
cloze task on each user's items but the last two, for the epochs of the recipe; the epoch with the best NDCG@10 of the
validation items is the one tested. After ``--minutes`` training stops at its next checkpoint, prints how good the best
epoch so far is, and the same command continues from there; ``OUT/log.jsonl`` holds the figures of all epochs and
``OUT/scores.json`` those of the test. ``--set encoder.training.epochs=20 encoder.hidden_size=64`` changes single
settings, ``--loss`` the loss: the sampled softmax and the full one are compared by two folders.

Torch and numpy are enough, with pyarrow to read Parquet.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from leave_one_out import Histories, read_histories

from conf.encoders import EncoderSettings, MaskingSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.metrics.ranking import RankingMetrics, ranking_sums
from ml.models.protocol import SequenceEncoder
from ml.objectives.ranking import rank_last_items
from ml.objectives.registry import build_objective
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from schemas.tokens import FIRST_ITEM

log = logging.getLogger(__name__)

ROWS_PER_TEST_BATCH = 256


@dataclass(frozen=True)
class Plan:
    """How a model is trained on one of the data sets.

    Attributes
    ----------
    encoder : of sequences of ``max_length``; validation and test read that many of the user's last items
    passes : over the users in an epoch, each with masks of its own; validation follows an epoch
    whole_histories : also train on what is older than the last ``max_length`` items, cut into pieces of that length
    validation_users : so many users drawn at random are validated and all others' items before the last trained on, as
        in Petrov and Macdonald 2022; 0 for all users
    """

    encoder: EncoderSettings
    passes: int
    whole_histories: bool = False
    validation_users: int = 0
    seed: int = 0


def two_layers(
    max_length: int,
    hidden_size: int,
    dropout: float,
    masking: MaskingSettings,
    epochs: int,
    passes: int,
    tokens_per_batch: int,
) -> Plan:
    """A two-layer encoder normed before its blocks, with a feed-forward of four times its width."""
    training = TrainingSettings(
        n_ranks=1,
        epochs=epochs,
        tokens_per_batch=tokens_per_batch,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="cosine",
        patience=10,
        rank_seen_items=False,
        checkpoint_every_steps=50,
    )
    encoder = EncoderSettings(
        behaviours=("interactions",),
        hidden_size=hidden_size,
        n_layers=2,
        n_heads=4,
        feed_forward_size=4 * hidden_size,
        embedding_dropout=dropout,
        encoder_dropout=dropout,
        norm="pre",
        final_norm=True,
        max_length=max_length,
        masking=masking,
        training=training,
    )
    return Plan(encoder, passes)


def causal(plan: Plan) -> Plan:
    """The same, with each token's next one to be learnt instead of masked ones."""
    return replace(plan, encoder=replace(plan.encoder, attention="causal", objective="next_item"))


RECIPES = {
    # RecTools' published BERT4Rec: 256 wide, 2 layers, 4 heads, dropout .2, up to 200 passes over the users.
    "ml-1m": two_layers(200, 256, 0.2, MaskingSettings(mask_prob=0.2, last_only_share=0.1), 40, 5, 128 * 200),
    # An eighth of the work, for a CPU core.
    "ml-1m-small": two_layers(200, 128, 0.1, MaskingSettings(mask_prob=0.2, last_only_share=0.2), 20, 5, 4096),
    # Causal: each token of a pass is a label, and fewer passes do.
    "ml-1m-causal": causal(two_layers(200, 128, 0.2, MaskingSettings(), 12, 3, 4096)),
    # Short histories: the last item alone is masked often, dropout is strong, and 30 passes are enough to overfit.
    "beauty": two_layers(50, 128, 0.4, MaskingSettings(mask_prob=0.3, last_only_share=0.4), 10, 5, 2048),
}


@dataclass(frozen=True)
class Split:
    """Token ids of each user: what is trained on, and rows whose last item is validated and tested."""

    training: list[np.ndarray]
    validation: list[np.ndarray]
    test: list[np.ndarray]


def split_histories(histories: Histories, plan: Plan) -> Split:
    """Hold out the last item of every user, and the one before of those who are validated."""
    test = histories.rows(max_length=plan.encoder.max_length)
    training = histories.rows(n_held_out=2)
    validation = histories.rows(n_held_out=1, max_length=plan.encoder.max_length)
    if plan.validation_users:
        known = histories.rows(n_held_out=1)
        is_validated = np.zeros(len(known), dtype=bool)
        is_validated[np.random.default_rng(plan.seed).permutation(len(known))[: plan.validation_users]] = True
        pairs = zip(is_validated, training, known, strict=True)
        training = [without if is_held_out else whole for is_held_out, without, whole in pairs]
        validation = [row for is_held_out, row in zip(is_validated, validation, strict=True) if is_held_out]
    pieces = [piece for history in training for piece in cut(history, plan)]
    return Split([piece for piece in pieces if len(piece) >= 2], validation, test)


def cut(history: np.ndarray, plan: Plan) -> Iterator[np.ndarray]:
    """The last items of a history, then older ones piece by piece if they are wanted; the oldest piece may be short."""
    yield history[-plan.encoder.max_length :]
    if plan.whole_histories:
        for end in range(len(history) - plan.encoder.max_length, 0, -plan.encoder.max_length):
            yield history[max(0, end - plan.encoder.max_length) : end]


def open_feed(split: Split, plan: Plan) -> ArrayFeed:
    """The rows by like length; an epoch passes over the users several times."""
    steps = (0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    widths = sorted({max(2, round(step * plan.encoder.max_length)) for step in steps})
    training = Sequences.from_rows(split.training * plan.passes)
    return ArrayFeed(
        training, Sequences.from_rows(split.validation), widths, plan.encoder.training.tokens_per_batch, plan.seed
    )


def score_last_items(
    encoder: SequenceEncoder, settings: EncoderSettings, rows: list[np.ndarray], device: torch.device
) -> dict[str, Any]:
    """The metrics of the rows' last items, among all items and among those that the user did not have yet."""
    encoder, objective = encoder.to(device), build_objective(settings, encoder.vocabulary)
    sequences = Sequences.from_rows(rows)
    by_length = np.argsort([len(row) for row in rows], kind="stable")
    sums = {"with seen items": np.zeros(4), "without seen items": np.zeros(4)}
    for start in range(0, len(rows), ROWS_PER_TEST_BATCH):
        numbers = by_length[start : start + ROWS_PER_TEST_BATCH]
        width = min(settings.max_length, len(rows[numbers[-1]]))
        batch = SequenceBatch(sequences.padded(numbers, width)).tensors(device)
        for (name, so_far), remove_seen in zip(sums.items(), (False, True), strict=True):
            ranks = rank_last_items(encoder, objective, batch, remove_seen=remove_seen)
            sums[name] = so_far + ranking_sums(ranks)
    return {name: asdict(RankingMetrics.from_sums(total)) for name, total in sums.items()}


def changed(settings: Any, key: str, value: str) -> Any:
    """The settings with one value, named as ``encoder.hidden_size``, replaced by another, as JSON."""
    name, _, rest = key.partition(".")
    if name not in {of.name for of in fields(settings)}:
        raise SystemExit(f"no setting {name!r}; known are {sorted(of.name for of in fields(settings))}")
    if is_dataclass(getattr(settings, name)):
        return replace(settings, **{name: changed(getattr(settings, name), rest, value)})
    try:
        return replace(settings, **{name: json.loads(value)})
    except json.JSONDecodeError:
        return replace(settings, **{name: value})


def train(plan: Plan, histories: Histories, split: Split, name: str, out: Path, minutes: float) -> bool:
    """Train until the end, or until the time is up; whether it is the end."""
    vocabulary = VocabularyDescription(FIRST_ITEM + histories.n_items)
    card = ModelCard(name, plan.encoder, vocabulary, "by falling count", 0)
    data = json.dumps([name, plan.passes, plan.whole_histories, plan.validation_users])
    checkpoints = out / "checkpoints"
    job = TrainingJob(card, out / "model", checkpoints, plan.seed, data)
    checkpoints.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def report(figures: Mapping[str, Any]) -> None:
        with (out / "log.jsonl").open("a") as lines:
            lines.write(json.dumps({"seconds": time.monotonic() - started, **figures}) + "\n")
        if "validation/ndcg@10" in figures:
            log.info("epoch %d: validation NDCG@10 %.4f", figures["epoch"], figures["validation/ndcg@10"])

    def is_time_up() -> bool:
        return time.monotonic() - started > 60 * minutes

    return train_model(job, open_feed(split, plan), Ranks(), report, is_time_up).is_finished


def main() -> None:
    """Train, test and print."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    plan = RECIPES[arguments.recipe]
    plan = changed(plan, "encoder.loss.name", arguments.loss)
    for assignment in arguments.set:
        key, _, value = assignment.partition("=")
        plan = changed(plan, key, value)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    histories = read_histories(arguments.data)
    split = split_histories(histories, plan)
    told = f"{len(split.test):,} users, {histories.n_items:,} items, {len(histories.tokens):,} interactions"
    log.info("%s: %s, %s training sequences", arguments.data.stem, told, f"{len(split.training):,}")
    is_finished = train(plan, histories, split, arguments.data.stem, arguments.out, arguments.minutes)
    folder = arguments.out / "model" if is_finished else arguments.out / "checkpoints" / "best"
    if not folder.is_dir():
        print("no epoch is done yet; the same command goes on")
        return
    encoder, card = load_model(folder)
    device = Ranks().device(plan.encoder.training.device)
    scores = score_last_items(encoder, card.settings, split.test, device)
    validation = json.loads((folder / "metrics.json").read_text())
    result = {"is_finished": is_finished, "validation": validation, "test": scores, "plan": asdict(plan)}
    (arguments.out / "scores.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'trained to the end' if is_finished else 'not at its end'}, best epoch {validation['epoch']}")
    print("| test | users | HR@10 | NDCG@10 | MRR |\n|---|---|---|---|---|")
    for name, metrics in scores.items():
        print(
            f"| {name} | {metrics['n_users']:,} | {metrics['hr_at_10']:.4f} | {metrics['ndcg_at_10']:.4f} "
            f"| {metrics['mrr']:.4f} |"
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a leave-one-out file, .parquet or .npz")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, the best model and the figures")
    parser.add_argument("--recipe", choices=list(RECIPES), required=True)
    parser.add_argument("--loss", choices=["auto", "full", "sampled", "gbce"], default="full")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="single settings of the recipe"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 for its own choice")
    return parser.parse_args()


if __name__ == "__main__":
    main()
