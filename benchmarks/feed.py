"""The training feed alone: how fast, how much memory, how well mixed, and how long a trainer would wait for it.

    python benchmarks/feed.py

Writes random sequences (lengths geometric with mean 9.4, cut at 128) in the layout of ``tables/sequences``: files of
one width, row groups of the configured size. Then, one thread and rank:

- one epoch's rows and tokens per second (padding not counted) of ``ParquetFeed``; of Petastorm with its row groups
  left as Arrow hands them over; of pyarrow reading the same columns and padding them, the lower bound; and of
  ``ArrayFeed``;
- memory after each of several epochs;
- how long a consumer of so many tokens per second waits, with and without the read-ahead: while the shuffle buffers
  fill at the beginning of an epoch, and after;
- CPU time of packing, per token: training's batches from those of ``ArrayFeed``, and all sequences as inference packs
  them (``--packing`` measures this alone);
- how real the shuffle is: distinct row groups among the rows of a batch, against the number that a permutation of all
  rows would give, and the rank correlation of a row's position in the files with its position in the epoch (0 if
  there is none); the same without a buffer; and that an order comes again with its seed, and only with it.
"""

import argparse
import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from conf.sequences import SequenceSettings
from conf.training import FeedSettings
from ml.data.array_feed import ArrayFeed
from ml.data.arrow_rows import sequences_of
from ml.data.packing import PIECES, ROW_WIDTH, WINDOW, PackedFeed, pack_batches, pack_sequences
from ml.data.parquet_feed import ParquetFeed
from ml.data.row_groups import read_row_groups
from ml.data.sequence_batch import Batches, Feed, SequenceBatch, Sequences, Tokens
from ml.data.sharding import FeedFile, group_by_width
from ml.models.last_states import POSITIONS
from schemas.columns import CLIENT_ID, TOKEN_IDS
from schemas.tokens import FIRST_ITEM

LAYOUT = SequenceSettings()
WIDTHS = LAYOUT.widths[1:]
MEAN_LENGTH, N_ITEMS = 9.4, 100_000
CONSUMERS_TOKENS_PER_S = (10_000, 100_000, 1_000_000, 5_000_000)
FILLING_S = 10.0
PACKED_TOKENS = (4096, 65_536)
SEED = 7


def made_sequences(n_rows: int) -> Sequences:
    """Rows of two tokens or more, few items frequent and many rare."""
    generator = np.random.default_rng(SEED)
    lengths = np.minimum(generator.geometric(1 / MEAN_LENGTH, n_rows), WIDTHS[-1])
    offsets = np.concatenate([[0], lengths[lengths > 1].cumsum()])
    tokens = FIRST_ITEM + N_ITEMS * generator.random(offsets[-1]) ** 3
    return Sequences(tokens.astype(np.int32), offsets)


def write_files(sequences: Sequences, folder: Path) -> list[FeedFile]:
    """The rows in files of one width each."""
    rows = pa.ListArray.from_arrays(sequences.offsets.astype(np.int32), sequences.tokens)
    table = pa.table({CLIENT_ID: np.arange(len(rows)), TOKEN_IDS: rows, "n_events": sequences.lengths})
    files = []
    for narrower, width in zip((1, *WIDTHS), WIDTHS, strict=False):
        of_width = table.filter((sequences.lengths > narrower) & (sequences.lengths <= width))
        for start in range(0, len(of_width), LAYOUT.rows_per_file):
            path = folder / f"width={width}-{start}.parquet"
            files.append(write_file(of_width.slice(start, LAYOUT.rows_per_file), path, width))
    return files


def write_file(rows: pa.Table, path: Path, width: int) -> FeedFile:
    """One file; Spark ends a row group by its stored size, pyarrow by rows, so it is written twice."""
    pq.write_table(rows, path)
    stored = path.stat().st_size / len(rows)
    pq.write_table(rows, path, row_group_size=max(1, int(LAYOUT.row_group_mib * 2**20 / stored)))
    return FeedFile(f"file://{path.resolve()}", len(rows), width)


def arrow_row_groups(files: list[FeedFile]) -> Iterator[pa.ListArray]:
    """Pyarrow alone, in one thread."""
    for file in files:
        source = pq.ParquetFile(file.url.removeprefix("file://"))
        for number in range(source.num_row_groups):
            group = source.read_row_group(number, columns=[TOKEN_IDS], use_threads=False)
            yield group.column(TOKEN_IDS).combine_chunks()


def read_and_pad(files: list[FeedFile]) -> Iterator[Tokens]:
    """Pyarrow and the padding: no feed of these files can be faster in one thread."""
    for width, group in group_by_width(files).items():
        for column in arrow_row_groups(group):
            rows = Sequences(column.values.to_numpy(), column.offsets.to_numpy())
            yield rows.padded(np.arange(len(rows)), width)


def petastorm_row_groups(files: list[FeedFile]) -> Iterator[Sequences]:
    """Petastorm without padding and shuffling of ours."""
    for group in group_by_width(files).values():
        for rows in read_row_groups([file.url for file in group], ["token_ids"], SEED, "petastorm"):
            yield sequences_of([rows.column("token_ids").combine_chunks()])


def show_speed(files: list[FeedFile], sequences: Sequences, feeds: Mapping[str, Feed], repeats: int) -> None:
    """A line for each reader: the fastest of some epochs."""
    print(f"\n{'one epoch':<38} {'seconds':>8} {'rows/s':>12} {'tokens/s':>12}")
    readers: dict[str, Callable[[], Iterator[object]]] = {
        name: partial(feed.training, 1) for name, feed in feeds.items()
    }
    readers["Petastorm, row groups as Arrow"] = partial(petastorm_row_groups, files)
    readers["pyarrow and padding, no feed"] = partial(read_and_pad, files)
    for name, read in readers.items():
        seconds = min(timed(read) for _ in range(repeats))
        n_rows, n_tokens = len(sequences) / seconds, sequences.lengths.sum() / seconds
        print(f"{name:<38} {seconds:>8.2f} {n_rows:>12,.0f} {n_tokens:>12,.0f}")


def timed(read: Callable[[], Iterator[object]]) -> float:
    """Seconds to read all."""
    started = time.perf_counter()
    for _ in read():
        pass
    return time.perf_counter() - started


def show_packing(sequences: Sequences, repeats: int) -> None:
    """CPU time of packing, in batches of two sizes, and for inference; the fastest of some times."""
    print(f"\n{'packing, CPU ns per token':<38} {'the feed below':>14} {'packing':>8}   batches, told before, full")
    sequences, widths = sequences.last(ROW_WIDTH), [width for width in WIDTHS if width <= ROW_WIDTH]
    for tokens in PACKED_TOKENS:
        below = ArrayFeed(sequences, sequences[:0], widths, max(tokens, WINDOW) // PIECES, SEED)
        feed = PackedFeed(below, ROW_WIDTH, tokens)
        batches = list(below.training(1))
        n_rows = tokens // ROW_WIDTH
        packed = [batch.n_tokens for batch in pack_batches(iter(batches), n_rows, ROW_WIDTH)]
        works = (partial(below.training, 1), lambda given=batches, n=n_rows: pack_batches(iter(given), n, ROW_WIDTH))
        cells = [cpu_seconds(work, repeats) / sum(packed) * 1e9 for work in works]
        full = sum(packed[:-PIECES]) / len(packed[:-PIECES]) / tokens
        name = f"training, {tokens:,} positions a batch"
        print(f"{name:<38} {cells[0]:>14.0f} {cells[1]:>8.0f}   {len(packed)}, {feed.n_batches}, {full:.1%}")
    seconds = cpu_seconds(lambda: pack_sequences(sequences, POSITIONS), repeats)
    print(f"{'inference':<38} {'':>14} {seconds / sequences.n_tokens * 1e9:>8.0f}")


def cpu_seconds(work: Callable[[], Iterator[object]], repeats: int) -> float:
    """Of all threads, to read all; the least of some times."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        for _ in work():
            pass
        taken.append(time.process_time() - started)
    return min(taken)


def show_memory(feed: Feed, n_epochs: int) -> None:
    """Resident memory and threads of this process after each epoch."""
    process, told = psutil.Process(), []
    for epoch in range(1, n_epochs + 1):
        timed(partial(feed.training, epoch))
        told.append(f"{process.memory_info().rss / 2**20:.0f}")
    print(f"\nMiB of the process after each epoch of the Petastorm feed: {' '.join(told)}")
    print(f"threads: {process.num_threads()}, open files: {process.num_fds()}")


def show_waiting(feeds: Mapping[str, Feed], sequences: Sequences, most_s: float) -> None:
    """How long a consumer waits, whose step sleeps as a GPU's would."""
    print(f"\n{'consumer, tokens/s':<38}" + "".join(f"{n:>18,}" for n in CONSUMERS_TOKENS_PER_S))
    print(f"seconds waited while buffers fill (first {FILLING_S:.0f} s) / % of the time waited after (-: ended before)")
    for name, feed in feeds.items():
        batch_tokens = sequences.lengths.sum() / feed.n_batches
        found = [waits(feed, batch_tokens / speed, most_s) for speed in CONSUMERS_TOKENS_PER_S]
        cells = [f"{filling_s:.2f} s / {'-' if after is None else f'{after:.2f} %'}" for filling_s, after in found]
        print(f"{name:<38}" + "".join(f"{cell:>18}" for cell in cells))


def waits(feed: Feed, step_s: float, most_s: float) -> tuple[float, float | None]:
    """Seconds waited in the first ``FILLING_S`` of an epoch, and the share waited of the time after, in per cent.

    There is no share where the epoch ends within ``FILLING_S``.
    """
    waited_s, n_after = {True: 0.0, False: 0.0}, 0
    started = time.perf_counter()
    with contextlib.closing(feed.training(epoch=1)) as batches:
        while (asked := time.perf_counter() - started) < most_s:
            if next(batches, None) is None:
                break
            waited_s[asked < FILLING_S] += time.perf_counter() - started - asked
            n_after += asked >= FILLING_S
            time.sleep(step_s)
    after_s = time.perf_counter() - started - FILLING_S
    return waited_s[True], 100 * waited_s[False] / after_s if n_after else None


def show_shuffle(files: list[FeedFile], tokens_per_batch: int, folder: Path) -> None:
    """Of each width, how well an epoch mixes its row groups; with the buffer, and without."""
    print(f"\n{'row groups in a batch':<37} {'buffer':>8} {'none':>8} {'perfect':>8} {'of':>5}   rank correlation")
    for width, group in group_by_width(files).items():
        numbered, row_groups = numbered_copies(group, folder)
        orders = [
            epoch_order(numbered, mib, tokens_per_batch, SEED) for mib in (FeedSettings().shuffle_buffer_mib, 1e-6)
        ]
        perfect = np.array_split(np.random.default_rng(0).permutation(len(row_groups)), len(orders[0]))
        cells = [np.mean([len(np.unique(row_groups[rows])) for rows in order]) for order in (*orders, perfect)]
        drift = [np.corrcoef(np.concatenate(order), np.arange(len(row_groups)))[0, 1] for order in orders]
        print(
            f"  width {width:<29} " + " ".join(f"{cell:>8.2f}" for cell in cells) + f" {row_groups[-1] + 1:>5}   "
            f"{drift[0]:+.3f} (without a buffer {drift[1]:+.3f})"
        )


def numbered_copies(files: list[FeedFile], folder: Path) -> tuple[list[FeedFile], np.ndarray]:
    """Files with the same rows in the same row groups, but each row ends in its number; the row group of each."""
    copies: list[FeedFile] = []
    row_groups: list[np.ndarray] = []
    first = FIRST_ITEM
    for file in files:
        source = pq.ParquetFile(file.url.removeprefix("file://"))
        path = folder / f"numbered-{file.width}-{len(copies)}.parquet"
        with pq.ParquetWriter(path, pa.schema({TOKEN_IDS: pa.list_(pa.int32())})) as writer:
            for number in range(source.num_row_groups):
                n_rows = source.metadata.row_group(number).num_rows
                tokens = np.stack([np.full(n_rows, FIRST_ITEM), np.arange(first, first + n_rows)], axis=1)
                offsets = np.arange(0, 2 * n_rows + 1, 2, dtype=np.int32)
                rows = pa.ListArray.from_arrays(offsets, tokens.ravel().astype(np.int32))
                writer.write_table(pa.table({TOKEN_IDS: rows}), row_group_size=n_rows)
                row_groups.append(np.full(n_rows, len(row_groups)))
                first += n_rows
        copies.append(FeedFile(f"file://{path.resolve()}", file.n_rows, file.width))
    return copies, np.concatenate(row_groups)


def epoch_order(files: list[FeedFile], buffer_mib: float, tokens_per_batch: int, seed: int) -> list[np.ndarray]:
    """The numbers of the rows of each batch."""
    settings = FeedSettings(shuffle_buffer_mib=buffer_mib)
    feed = ParquetFeed(files, [], tokens_per_batch, settings, 0, 1, seed)
    return [batch.token_ids[:, -1] - FIRST_ITEM for batch in feed.training(epoch=1)]


def show_seeds(files: list[FeedFile], tokens_per_batch: int) -> None:
    """Whether a seed gives its order again, and another seed another."""

    def order(seed: int, epoch: int) -> Batches:
        return ParquetFeed(files, [], tokens_per_batch, FeedSettings(), 0, 1, seed).training(epoch)

    def is_same(seed: int, epoch: int) -> bool:
        pairs = itertools.zip_longest(order(SEED, 1), order(seed, epoch), fillvalue=SequenceBatch(np.empty((0, 0))))
        return all(np.array_equal(one.token_ids, other.token_ids) for one, other in pairs)

    same = {"the same seed": (SEED, 1), "another seed": (SEED + 1, 1), "another epoch": (SEED, 2)}
    print("\nequal batches: " + ", ".join(f"{name} {is_same(*key)}" for name, key in same.items()))


def main() -> None:
    """Write the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/feed"), help="made files")
    parser.add_argument("--rows", type=int, default=5_000_000, help="sequences, those of one token included")
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=6, help="epochs after each of which memory is read")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-seconds", type=float, default=30.0, help="of one consumer's epoch")
    parser.add_argument("--packing", action="store_true", help="measure packing alone")
    arguments = parser.parse_args()
    if arguments.packing:
        show_packing(made_sequences(arguments.rows), arguments.repeats)
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sequences = made_sequences(arguments.rows)
    files = write_files(sequences, arguments.folder)
    n_padded = sum(file.n_rows * file.width for file in files)
    n_tokens = int(sequences.lengths.sum())
    print(
        f"{len(sequences):,} rows, {n_tokens:,} tokens ({n_tokens / n_padded:.0%} of the positions), {len(files)} files"
    )

    def petastorm(batches_ahead: int, tokens_per_batch: int = arguments.tokens_per_batch) -> ParquetFeed:
        settings = FeedSettings(batches_ahead=batches_ahead)
        return ParquetFeed(files, [], tokens_per_batch, settings, 0, 1, SEED)

    n_ahead = FeedSettings().batches_ahead
    array_feed = ArrayFeed(sequences, Sequences.from_rows([]), WIDTHS, arguments.tokens_per_batch, SEED)
    feeds = {f"ParquetFeed, {n_ahead} batches ahead": petastorm(n_ahead), "ParquetFeed, none ahead": petastorm(0)}
    packed = PackedFeed(petastorm(n_ahead, PACKED_TOKENS[-1] // PIECES), WIDTHS[-1], PACKED_TOKENS[-1])
    feeds[f"the first, packed, {PACKED_TOKENS[-1]:,} positions"] = packed
    show_memory(petastorm(n_ahead), arguments.epochs)
    show_speed(files, sequences, {**feeds, "ArrayFeed": array_feed}, arguments.repeats)
    show_waiting(feeds, sequences, arguments.most_seconds)
    show_packing(sequences, arguments.repeats)
    show_shuffle(files, arguments.tokens_per_batch, arguments.folder)
    show_seeds(files, arguments.tokens_per_batch)


if __name__ == "__main__":
    main()
