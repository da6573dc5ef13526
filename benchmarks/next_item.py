"""Ranking quality on published data: the next item, by every encoder, beside popularity.

    python benchmarks/next_item.py --data DIR --out OUT --sets ml-1m --encoders sasrec-bce hstu --minutes 60

``leave_one_out.py`` describes the data files (``DIR/ml-1m.parquet`` and so on); items of fewer than five interactions
are dropped. The last item of each user is tested, all others but those of the user's own history are ranked; of
``validation_users`` the one before chooses the epoch, the others train on theirs (Petrov and Macdonald 2022). With
``--sampled`` it is also ranked among 100 items drawn by popularity (Sun et al. 2019).

``--minutes`` is a budget for each training, of CPU time on a CPU and of the clock on a GPU. It then stops at its next
checkpoint and the best epoch so far is tested; the same command goes on from there. Prints a table of all that ``OUT``
holds. ``--set encoder.training.epochs=20 encoder.hidden_size=128`` changes single settings of all the encoders.

Torch and numpy are enough, with pyarrow to read Parquet.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from leave_one_out import Histories, read_histories
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import AllActionSettings, EncoderSettings, LossSettings, MaskingSettings
from conf.training import TrainingSettings
from ml.compat.allocator import keep_freed_memory
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.metrics.ranking import RankingMetrics, ranking_sums
from ml.models.protocol import SequenceEncoder, evaluating
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import Objective
from ml.objectives.ranking import rank_last_items
from ml.objectives.registry import build_objective
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from schemas.tokens import FIRST_ITEM

log = logging.getLogger(__name__)

ROWS_PER_TEST_BATCH = 256
N_SAMPLED = 100
POPULARITY = "popularity"
FULL, SAMPLED = "all items", f"{N_SAMPLED} sampled"
COLUMNS = ("encoder", "seed", "HR@10", "NDCG@10", "MRR", "best epoch", "parameters", "minutes", "device")

CAUSAL = {"attention": "causal", "objective": "next_item", "head": "none", "item_bias": False}
SASREC = {**CAUSAL, "block": "sasrec", "embedding": "scaled", "final_norm": True, "feed_forward_size": 64}
LIGR = {**CAUSAL, "block": "ligr", "embedding": "sum", "final_norm": True}
COSINE = {"similarity": "cosine", "embedding": "scaled"}
FEW = LossSettings(name="sampled", n_negatives=256)
ENCODERS: dict[str, dict[str, Any]] = {
    "gru4rec": {**CAUSAL, "architecture": "gru", "n_layers": 1, "loss": replace(FEW, n_negatives=2048)},
    "lstm": {**CAUSAL, "architecture": "lstm", "n_layers": 1, "loss": FEW},
    "sasrec-bce": {**SASREC, "loss": LossSettings(name="bce")},
    "gsasrec": {
        **SASREC,
        "embedding": "sum",
        "output_table": "separate",
        "loss": LossSettings(name="gbce", n_negatives=256),
    },
    "sasrec-sampled": {**SASREC, "loss": FEW},
    "sasrec-full": {**SASREC, "loss": LossSettings(name="full")},
    "bert4rec": {"n_heads": 2, "norm": "pre", "final_norm": True, "loss": LossSettings(name="full")},
    "esasrec": {**LIGR, "loss": FEW},
    "hstu": {**CAUSAL, **COSINE, "architecture": "hstu", "n_heads": 2, "loss": FEW},
    "pinnerformer": {
        **LIGR,
        "objective": "all_action",
        "head": "bert",
        "similarity": "cosine",
        "learn_temperature": True,
        "loss": FEW,
        "all_action": AllActionSettings(positions=200, events=5),
    },
}
"""What each differs in from ``SMALL``; sources in docs/models.md."""
SMALL: dict[str, Any] = {"hidden_size": 64, "n_layers": 2, "n_heads": 1, "feed_forward_size": 256}
SETS: dict[str, dict[str, Any]] = {
    "ml-1m": {"max_length": 200, "embedding_dropout": 0.2, "encoder_dropout": 0.2},
    "beauty-5core": {"max_length": 50, "embedding_dropout": 0.4, "encoder_dropout": 0.4},
    "toys-5core": {"max_length": 50, "embedding_dropout": 0.4, "encoder_dropout": 0.4},
}
MASKING = {"ml-1m": MaskingSettings(mask_prob=0.2, last_only_share=0.2)}
SHORT_MASKING = MaskingSettings(mask_prob=0.3, last_only_share=0.4)


@dataclass(frozen=True)
class Plan:
    """How a model is trained on one of the data sets.

    Attributes
    ----------
    encoder : of sequences of ``max_length``; validation and test read that many of the user's last items
    whole_histories : also train on what is older than the last ``max_length`` items, cut into pieces of that length
    validation_users : so many users drawn at random are validated; all others' items before the last are trained on
    """

    encoder: EncoderSettings
    whole_histories: bool = False
    validation_users: int = 512
    seed: int = 0


def plan_of(name: str, data_set: str, seed: int) -> Plan:
    """The plan of an encoder on a data set: 64 wide, AdamW at 1e-3, until it is no better for ten epochs."""
    training = TrainingSettings(
        n_ranks=1,
        epochs=200,
        tokens_per_batch=4096,
        learning_rate=1e-3,
        warmup_steps=100,
        patience=10,
        rank_seen_items=False,
        checkpoint_every_steps=50,
    )
    values = {"masking": MASKING.get(data_set, SHORT_MASKING), **SMALL, **SETS[data_set], **ENCODERS[name]}
    return Plan(EncoderSettings(behaviours=("interactions",), training=training, **values), seed=seed)


class Popularity(SequenceEncoder):
    """Scores an item by how often it was trained on, whatever the sequence."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__(EncoderSettings(behaviours=("interactions",)), VocabularyDescription(len(counts)))
        self.counts = torch.nn.Parameter(counts, requires_grad=False)

    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """Float [B, L, 1]."""
        return torch.ones(*batch.shape, 1, device=self.device)

    def item_vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., 1]."""
        return self.counts[token_ids].unsqueeze(-1)


@dataclass(frozen=True)
class Split:
    """Token ids of each user: what is trained on, and rows whose last item is validated and tested.

    Attributes
    ----------
    known : of each row of ``test`` all items before its last, however many a model reads
    """

    training: list[NDArray[np.int32]]
    validation: list[NDArray[np.int32]]
    test: list[NDArray[np.int32]]
    known: list[NDArray[np.int32]]


def split_histories(histories: Histories, plan: Plan) -> Split:
    """Hold out the last item of every user, and the one before of those who are validated."""
    test = histories.rows(max_length=plan.encoder.max_length)
    known, validation = histories.rows(n_held_out=1), histories.rows(n_held_out=1, max_length=plan.encoder.max_length)
    is_validated = np.zeros(len(known), dtype=bool)
    is_validated[np.random.default_rng(plan.seed).permutation(len(known))[: plan.validation_users]] = True
    training = [row[:-1] if is_held_out else row for is_held_out, row in zip(is_validated, known, strict=True)]
    validation = [row for is_held_out, row in zip(is_validated, validation, strict=True) if is_held_out]
    pieces = [piece for history in training for piece in cut(history, plan)]
    return Split([piece for piece in pieces if len(piece) >= 2], validation, test, known)


def cut(history: NDArray[np.int32], plan: Plan) -> Iterator[NDArray[np.int32]]:
    """The last items of a history, then older ones piece by piece if they are wanted; the oldest piece may be short."""
    yield history[-plan.encoder.max_length :]
    if plan.whole_histories:
        for end in range(len(history) - plan.encoder.max_length, 0, -plan.encoder.max_length):
            yield history[max(0, end - plan.encoder.max_length) : end]


def open_feed(split: Split, plan: Plan) -> ArrayFeed:
    """The rows by like length."""
    steps = (0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    widths = sorted({max(2, round(step * plan.encoder.max_length)) for step in steps})
    training, validation = Sequences.from_rows(split.training), Sequences.from_rows(split.validation)
    return ArrayFeed(training, validation, widths, plan.encoder.training.tokens_per_batch, plan.seed)


def negatives_of(histories: Histories, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each user 100 different tokens drawn by popularity, none of them of the user's own, int64 [N, 100]."""
    generator = np.random.default_rng(0)  # of all encoders and seeds the same
    drawn = np.empty((len(histories.offsets) - 1, N_SAMPLED), np.int64)
    weights = np.log(np.maximum(counts, 1e-9))
    for number, row in enumerate(histories.rows()):
        # the highest of perturbed logarithms are a draw without replacement (Gumbel)
        keys = weights + generator.gumbel(size=len(weights))
        keys[:FIRST_ITEM], keys[row] = -np.inf, -np.inf
        drawn[number] = np.argpartition(-keys, N_SAMPLED)[:N_SAMPLED]
    return drawn


def rank_sampled(
    encoder: SequenceEncoder, objective: Objective, batch: SequenceBatch[Tensor], negatives: Tensor
) -> Tensor:
    """Int64 [B], the rank of each row's last item among itself and its own negatives (int64 [B, 100])."""
    with evaluating(encoder):
        vectors = encoder.output_vectors(encoder.encode(objective.without_last(batch))[:, -1])
        scores = encoder.logits(vectors, torch.cat([batch.token_ids[:, -1:], negatives], dim=1))  # [B, 101]
    return (~(scores < scores[:, :1])).sum(dim=1)


def test_last_items(
    encoder: SequenceEncoder,
    objective: Objective,
    split: Split,
    negatives: NDArray[np.int64] | None,
) -> dict[str, dict[str, float]]:
    """The metrics of the test's last items, among all that the user did not have yet and among ``negatives``."""
    rows, device = split.test, encoder.device
    sequences, known = Sequences.from_rows(rows), Sequences.from_rows(split.known)
    by_length = np.argsort([len(row) for row in rows], kind="stable")
    sums = {FULL: np.zeros(4), SAMPLED: np.zeros(4)}
    for start in range(0, len(rows), ROWS_PER_TEST_BATCH):
        numbers = by_length[start : start + ROWS_PER_TEST_BATCH]
        batch = SequenceBatch(sequences.padded(numbers, len(rows[numbers[-1]]))).tensors(device)
        left_out = SequenceBatch(known.padded(numbers, int(known.lengths[numbers].max()))).tensors(device).token_ids
        sums[FULL] += ranking_sums(rank_last_items(encoder, objective, batch, left_out=left_out))
        if negatives is not None:
            own = torch.from_numpy(negatives[numbers]).to(device)
            sums[SAMPLED] += ranking_sums(rank_sampled(encoder, objective, batch, own))
    return {name: asdict(RankingMetrics.from_sums(total)) for name, total in sums.items() if total[0]}


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


def train(plan: Plan, histories: Histories, split: Split, name: str, out: Path, is_time_up: Callable[[], bool]) -> bool:
    """Train until the end, or until the time is up; whether it is the end."""
    vocabulary = VocabularyDescription(FIRST_ITEM + histories.n_items)
    card = ModelCard(name, plan.encoder, vocabulary, "by falling count", 0)
    data = json.dumps([name, plan.whole_histories, plan.validation_users])
    job = TrainingJob(card, out / "model", out / "checkpoints", plan.seed, data)
    job.checkpoints.mkdir(parents=True, exist_ok=True)

    def report(figures: Mapping[str, Any]) -> None:
        with (out / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(dict(figures)) + "\n")
        if "validation/ndcg@10" in figures:
            log.info("%s: epoch %d: NDCG@10 %.4f", name, figures["epoch"], figures["validation/ndcg@10"])

    return train_model(job, open_feed(split, plan), Ranks(), report, is_time_up).is_finished


def measure(plan: Plan, name: str, histories: Histories, negatives: Any, out: Path, minutes: float) -> None:
    """Train one encoder within its budget, test its best epoch and write ``scores.json``."""
    split, device = split_histories(histories, plan), Ranks().device(plan.encoder.training.device)
    scores: dict[str, Any] = {"encoder": name, "seed": plan.seed, "minutes": 0.0, "epoch": 0, "parameters": 0}
    scores["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if name == POPULARITY:
        counts = np.bincount(np.concatenate(split.training), minlength=FIRST_ITEM + histories.n_items)
        encoder: SequenceEncoder = Popularity(torch.from_numpy(counts).float())
        objective: Objective = NextItem(plan.encoder, encoder.vocabulary)
    else:
        clock, spent = time.monotonic if device.type == "cuda" else time.process_time, out / "minutes.json"
        before = json.loads(spent.read_text()) if spent.exists() else 0.0
        started = clock()
        is_finished = train(plan, histories, split, name, out, lambda: clock() - started > 60 * minutes)
        scores |= {"minutes": before + (clock() - started) / 60, "is_finished": is_finished}
        spent.write_text(json.dumps(scores["minutes"]))
        folder = out / "model" if is_finished else out / "checkpoints" / "best"
        if not folder.is_dir():
            log.info("%s: no epoch is done yet; the same command goes on", name)
            return
        encoder, card = load_model(folder)
        objective = build_objective(card.settings, card.vocabulary)
        scores["epoch"] = json.loads((folder / "metrics.json").read_text())["epoch"]
        scores["parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
    scores["test"] = test_last_items(encoder.to(device), objective, split, negatives)
    (out / "scores.json").write_text(json.dumps(scores | {"plan": asdict(plan)}, indent=2) + "\n")


def print_tables(out: Path) -> None:
    """A table of each data set and protocol that the folder holds, the best encoder last."""
    found = [(path.parents[1].name, json.loads(path.read_text())) for path in sorted(out.glob("*/*/scores.json"))]
    for data_set, protocol in sorted({(data_set, each) for data_set, scores in found for each in scores["test"]}):
        of_set = [scores for name, scores in found if name == data_set and protocol in scores["test"]]
        print(f"\n{data_set}, {protocol}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for scores in sorted(of_set, key=lambda scores: scores["test"][protocol]["ndcg_at_10"]):
            of = scores["test"][protocol]
            print(
                f"| {scores['encoder']} | {scores['seed']} | {of['hr_at_10']:.4f} | {of['ndcg_at_10']:.4f} | "
                f"{of['mrr']:.4f} | {scores['epoch']} | {scores['parameters']:,} | {scores['minutes']:.1f} | "
                f"{scores['device']} |"
            )


def main() -> None:
    """Train, test and print."""
    arguments = build_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ml").setLevel(logging.WARNING)
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for data_set in arguments.sets:
        histories = read_histories(arguments.data / f"{data_set}.parquet")
        log.info("%s: %s users, %s items", data_set, f"{len(histories.offsets) - 1:,}", f"{histories.n_items:,}")
        counts = np.bincount(np.concatenate(histories.rows(n_held_out=2)), minlength=FIRST_ITEM + histories.n_items)
        negatives = negatives_of(histories, counts) if arguments.sampled else None
        for name in arguments.encoders:
            for seed in arguments.seeds:
                plan = plan_of("bert4rec" if name == POPULARITY else name, data_set, seed)
                for assignment in arguments.set:
                    key, _, value = assignment.partition("=")
                    plan = changed(plan, key, value)
                out = arguments.out / data_set / f"{name}-{seed}"
                out.mkdir(parents=True, exist_ok=True)
                measure(plan, name, histories, negatives, out, arguments.minutes)
    print_tables(arguments.out)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the leave-one-out files")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, the best models and the figures")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    names = [POPULARITY, *ENCODERS]
    parser.add_argument("--encoders", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="for each training")
    parser.add_argument("--sampled", action="store_true", help="also rank among 100 items drawn by popularity")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="single settings of the plans"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 for its own choice")
    return parser


if __name__ == "__main__":
    main()
