"""How fast training is here: ``python -m ml.bench``. Needs torch and numpy only, a CPU or one GPU.

Made sequences of geometric lengths go through the very step that training takes (``ml.training.step``): masks, forward,
backward, optimisers. Prints tokens and sequences per second, memory, and the share of what the hardware can do: the
step's floating point operations, as torch counts them, against a large matrix product of the same precision. With
``--inference`` they become vectors instead, as the Spark job makes them. ``--profile`` adds where the time goes.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from conf.encoders import EncoderSettings, InferenceSettings, LossSettings
from conf.sequences import SequenceSettings
from conf.training import TrainingSettings
from ml.compat.allocator import keep_freed_memory
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import SequenceBatch, Sequences, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.inference.embed import embed_sequences
from ml.models.registry import ENCODERS
from ml.training.distributed import Ranks
from ml.training.hardware import forget_gpu_peak, peak_memory, product_rate, timed
from ml.training.step import Learner, open_feed
from schemas.tokens import FIRST_ITEM

MATRIX_SHARE = "% of a large matrix product's rate"


def made_sequences(n_rows: int, mean_length: float, max_length: int, n_items: int, seed: int) -> Sequences:
    """Sequences of items one after the other, from any on; lengths are geometric, at least 2, cut at ``max_length``."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.geometric(1 / mean_length, n_rows), 2, max_length)
    offsets = np.concatenate([[0], lengths.cumsum()])
    # something to learn: each item follows from the one before it, and all are as frequent
    items = np.repeat(generator.integers(0, n_items, n_rows) - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Sequences((FIRST_ITEM + items % n_items).astype(np.int32), offsets)


def draw_batches(arguments: argparse.Namespace, ranks: Ranks | None = None) -> list[SequenceBatch[Tokens]]:
    """So many batches of one rank's share of made sequences; all ranks have the same widths at a time."""
    ranks = ranks or Ranks()
    n_tokens = arguments.tokens_per_batch * arguments.steps * ranks.world_size
    n_rows = int(2 * n_tokens / arguments.mean_length) + 1000
    rows = made_sequences(n_rows, arguments.mean_length, arguments.max_length, arguments.items, arguments.seed)
    widths = [width for width in SequenceSettings().widths if width < arguments.max_length] + [arguments.max_length]
    nobody = Sequences.from_rows([])
    shares = arguments.seed, ranks.rank, ranks.world_size

    def make(tokens_per_batch: int) -> ArrayFeed:
        return ArrayFeed(rows, nobody, widths, tokens_per_batch, *shares)

    feed = open_feed(_settings(arguments), ranks, make, arguments.packed_width or 0)
    return [batch for batch, _ in zip(feed.training(1), range(arguments.steps), strict=False)]


def build_learner(arguments: argparse.Namespace, ranks: Ranks | None = None) -> Learner:
    """A fresh learner of the paper's shape but for the arguments; a causal encoder learns the next item."""
    vocabulary = VocabularyDescription(FIRST_ITEM + arguments.items)
    return Learner(_settings(arguments), vocabulary, arguments.seed, ranks)


def _settings(arguments: argparse.Namespace) -> EncoderSettings:
    choice: dict[str, bool | Literal["auto"]] = {"auto": "auto", "yes": True, "no": False}
    packing = choice["auto"] if arguments.packed_width is None else arguments.packed_width > 0
    training = TrainingSettings(
        device=arguments.device, precision=arguments.precision, compile=choice[arguments.compile], packing=packing,
        tokens_per_batch=arguments.tokens_per_batch, learning_rate=arguments.learning_rate,
    )  # fmt: skip
    settings = EncoderSettings(
        behaviours=("made",),
        hidden_size=arguments.hidden_size,
        n_layers=arguments.layers,
        n_heads=arguments.heads,
        feed_forward_size=arguments.feed_forward_size or arguments.hidden_size,
        max_length=arguments.max_length,
        architecture=arguments.architecture,
        attention=arguments.attention,
        block=arguments.block,
        embedding_dropout=arguments.dropout,
        encoder_dropout=arguments.dropout,
        loss=LossSettings(name=arguments.loss, n_negatives=arguments.negatives),
        training=training,
    )
    if ENCODERS[settings.architecture].reads_causally(settings):
        settings = replace(settings, objective="next_item")
    return settings


def measure(learner: Learner, batches: list[SequenceBatch[Tokens]]) -> dict[str, float]:
    """One step per batch, after a warm-up in which operations are counted; key -> figure."""
    counted = batches[: len(batches) // 8 + 1]
    if batches[0].segments is not None:
        for batch in batches:  # the bound that fits all, or a graph would be compiled while time is taken
            learner.most_targets(batch)
    with FlopCounterMode(display=False) as counter, learner.uncompiled():  # a compiled graph's operations are not seen
        for batch in counted:
            learner.step([batch])
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()  # what those steps took, which were not compiled
    for batch in batches[: len(batches) // 4 + 3]:
        learner.step([batch])
    forget_gpu_peak(learner.device)
    cpu_started = time.process_time()
    seconds = timed(learner.device, lambda: [learner.step([batch]) for batch in batches])
    # beside other work on the machine, seconds of CPU time compare where those of the clock do not
    cpu_seconds, memory = time.process_time() - cpu_started, peak_memory(learner.device)
    n_positions = sum(batch.token_ids.size for batch in batches)
    n_tokens = sum(batch.n_tokens for batch in batches)
    # counted on some of the batches, and scaled by positions to all
    flops = counter.get_total_flops() * n_positions / sum(batch.token_ids.size for batch in counted)
    rate = product_rate(learner.device, getattr(torch, learner.settings.training.precision))
    return {
        "ms per step": 1000 * seconds / len(batches),
        "positions per step": n_positions / len(batches),
        "% padding": 100 * (1 - n_tokens / n_positions),
        "tokens/s": n_tokens / seconds,
        "tokens per second of CPU time": n_tokens / cpu_seconds,
        "sequences/s": sum(len(batch.lengths) for batch in batches) / seconds,
        "TFLOP/s": flops / seconds / 1e12,
        MATRIX_SHARE: 100 * flops / seconds / rate,
        **memory,
    }


def measure_inference(learner: Learner, arguments: argparse.Namespace) -> dict[str, float]:
    """Vectors of made sequences by the mean of their tokens, after a warm-up; key -> figure."""
    n_rows = int(arguments.tokens_per_batch * arguments.steps / arguments.mean_length)
    rows = made_sequences(n_rows, arguments.mean_length, arguments.max_length, arguments.items, arguments.seed)
    settings = InferenceSettings(precision=arguments.precision, compile=arguments.compile == "yes")

    def embed() -> None:
        embed_sequences(learner.encoder, rows, settings)

    with FlopCounterMode(display=False) as counter:  # of what is compiled it sees nothing
        embed_sequences(learner.encoder, rows, replace(settings, compile=False))
    embed()
    seconds = timed(learner.device, embed)
    if arguments.profile:
        print_profile(learner.device, embed)
    rate = counter.get_total_flops() / seconds
    return {
        "tokens/s": len(rows.tokens) / seconds,
        "sequences/s": n_rows / seconds,
        "TFLOP/s": rate / 1e12,
        MATRIX_SHARE: 100 * rate / product_rate(learner.device, getattr(torch, arguments.precision)),
        **peak_memory(learner.device),
    }


def print_profile(device: torch.device, work: Callable[[], object]) -> None:
    """Where the time of some work goes, by operation or kernel."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_cuda
    with profile(activities=activities) as profiler:
        timed(device, work)
    key = "self_cuda_time_total" if is_cuda else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))


def main() -> None:
    """Measure and print."""
    arguments = build_parser().parse_args()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    learner = build_learner(arguments)
    device = learner.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    n_parameters = sum(parameter.numel() for parameter in learner.encoder.parameters())
    print(f"{name}, torch {torch.__version__}, {arguments.precision}, {n_parameters:,} parameters")
    batches = [] if arguments.inference else draw_batches(arguments)
    figures = measure_inference(learner, arguments) if arguments.inference else measure(learner, batches)
    for key, value in figures.items():
        print(f"{value:14,.2f} {key}")
    if arguments.profile and batches:
        print_profile(device, lambda: [learner.step([batch]) for batch in batches[:8]])


def build_parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", choices=["auto", "yes", "no"], default="auto", help="auto: as training does")
    parser.add_argument("--inference", action="store_true", help="make vectors instead of training steps")
    parser.add_argument(
        "--profile", action="store_true", help="add where the time goes, of eight steps or of all vectors"
    )
    parser.add_argument(
        "--packed-width", type=int, default=None, help="of rows that sequences share; 0 for rows of their own"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0 for its own choice")
    parser.add_argument("--steps", type=int, default=40)
    # by way of float: 1.3e6 is a whole number here
    parser.add_argument("--items", type=lambda text: int(float(text)), default=100_000)
    parser.add_argument("--loss", choices=["auto", "full", "sampled", "gbce", "bce", "bpr_max"], default="auto")
    parser.add_argument("--negatives", type=int, default=2048)
    parser.add_argument("--mean-length", type=float, default=9.4)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--architecture", choices=list(ENCODERS), default="transformer")
    parser.add_argument("--attention", choices=["bidirectional", "causal"], default="bidirectional")
    parser.add_argument("--block", choices=["bert", "sasrec", "ligr"], default="bert", help="of a transformer")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--feed-forward-size", type=int, default=0, help="0 for the hidden size, as in the paper")
    parser.add_argument("--dropout", type=float, default=EncoderSettings.encoder_dropout)
    parser.add_argument("--learning-rate", type=float, default=TrainingSettings().learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
