"""One step of training: inputs and targets, loss, update. Knows the ranks, not where batches come from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.packing import PIECES, ROW_WIDTH, WINDOW, PackedFeed
from ml.data.sequence_batch import Feed, SequenceBatch, Tokens, moved_to
from ml.data.vocabulary import VocabularyDescription
from ml.models.precision import uses_bfloat16
from ml.models.registry import ENCODERS, build_encoder
from ml.objectives.protocol import TrainingBatch
from ml.objectives.registry import OBJECTIVES, build_objective
from ml.training.distributed import Ranks
from ml.training.optimizers import RowAdam, build_optimizers, learning_rate
from ml.training.row_window import RowGradient, RowWindow

MAY_COMPILE_ANY_SHAPE = torch.__version__ >= "2.8"  # by its own type, which compares versions
"""From the third graph of changing shapes on, torch 2.3 computes other losses than uncompiled; 2.8 does not."""


class StepSums(NamedTuple):
    """One rank's sums over one step; what is a tensor stays on its device until somebody asks for its value.

    Attributes
    ----------
    is_over : no rank had a batch left, and nothing changed
    """

    loss: Tensor
    n_targets: int | Tensor
    is_over: bool = False


class Learner:
    """An encoder, its objective, its optimisers and the number of steps they took, on one rank.

    All that is random in a step (masks, candidates, dropout) is drawn from generators seeded by (seed, step, rank):
    the number of steps is the whole state of the generators.

    Parameters
    ----------
    ranks : that train together, all with the same other arguments; None for a process alone
    steps_per_epoch : what the learning rate's schedule counts by
    """

    def __init__(
        self,
        settings: EncoderSettings,
        vocabulary: VocabularyDescription,
        seed: int = 0,
        ranks: Ranks | None = None,
        steps_per_epoch: int = 1,
    ) -> None:
        self.settings, self.seed, self.ranks = settings, seed, ranks or Ranks()
        self.steps_per_epoch = steps_per_epoch
        self.device = self.ranks.device(settings.training.device)
        self.is_bfloat16 = uses_bfloat16(settings.training.precision, self.device)
        self.objective = build_objective(settings, vocabulary)
        torch.manual_seed(seed)
        self.encoder = build_encoder(settings, vocabulary, self.objective.is_sampled)
        self.encoder.heads = self.objective.build_heads(self.encoder.hidden_size)
        self.encoder.to(self.device)
        wants = settings.training.compile
        is_cuda, is_packed = self.device.type == "cuda", packs_rows(settings, self.device)
        # rows of their own have many shapes: compiling them took a minute and gained nothing; tables of events have not
        # been compiled on a GPU yet (docs/benchmarks.md)
        pays = is_cuda and is_packed and self.encoder.can_compile and settings.table_kind != "events"
        is_compiled = pays if wants == "auto" else wants
        # sparse gradients are quick on a CPU; a GPU's queue would halt to count their rows, and no compiler takes them
        uses_window = self.encoder.has_sparse_tables and (is_compiled or is_cuda)
        self.window = RowWindow(self.encoder) if uses_window and RowWindow.fits(self.encoder) else None
        if self.encoder.has_sparse_tables and self.window is None:
            is_compiled = False
            for table in self.encoder.row_parameters():
                # a token met often in a batch is one row of the gradient, before it is sent to other ranks
                table.register_hook(Tensor.coalesce)
        # of a graph that is recorded, the next batch would overwrite gradients that batches of a step add up
        is_alone = settings.training.batches_per_step == 1
        self.is_recorded = is_compiled and is_packed and is_alone and is_cuda
        self._loss_of = self.loss
        self.is_compiled, self._bounds = is_compiled, dict[int, int]()
        if is_compiled:
            # the encoders of a run share this code, and Dynamo gives up after eight graphs of it
            torch._dynamo.reset()
            # packed batches have one shape, hardly ever another: a graph of each is quicker than one of any
            mode = "reduce-overhead" if self.is_recorded else None
            any_shape = None if MAY_COMPILE_ANY_SHAPE and not is_packed else False
            self._loss_of = torch.compile(self.loss, mode=mode, dynamic=any_shape)
        self.optimizers = build_optimizers(self.encoder, settings.training)
        self.ranks.broadcast(self.encoder)
        self.n_steps = 0

    def step(self, batches: Sequence[SequenceBatch[Tokens]]) -> StepSums:
        """Update the encoder by what the objective asks of the batches.

        A rank that has no batch left takes part in the others' steps with none.
        """
        # the targets of packed rows are drawn on the device: their number is bounded, so that nobody waits to count
        is_packed = any(batch.segments is not None for batch in batches)
        device = self.device if is_packed else torch.device("cpu")
        # dropout draws from torch's global generator, on every device; masks and candidates from one of their own
        torch.manual_seed(self._seed(0))
        generator = torch.Generator(device).manual_seed(self._seed(1))
        prepared = []
        for batch in batches:
            bound = [self.most_targets(batch)] if is_packed else []
            prepared.append(self.objective.prepare(batch.tensors(device), generator, *bound))
        return self.update(prepared, self.objective.draw_candidates(generator))

    def update(self, batches: Sequence[TrainingBatch], candidates: Tensor | None) -> StepSums:
        """Update the encoder by prepared batches, all compared with the same candidates (int64 [K]).

        Every target of all batches and ranks counts the same, however many a rank has.
        """
        loss, n_targets = torch.zeros((), device=self.device), sum(batch.n_targets for batch in batches)
        # the sum over the ranks comes while the loss is computed; cached, because it can be waited for only once
        n_everywhere: Callable[[], float | Tensor] = cache(self._begin_sum(n_targets))
        # other ranks may have batches left: then this one takes part with gradients of zero
        if not batches and not n_everywhere():
            return StepSums(loss, 0, is_over=True)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        batches = [batch.to(self.device) for batch in batches]
        candidates = None if candidates is None else moved_to(candidates, self.device)
        if self.window and batches:
            used = [batch.inputs.token_ids for batch in batches] + ([] if candidates is None else [candidates])
            used += [batch.targets["positives"] for batch in batches if "positives" in batch.targets]
            self.window.open(torch.cat([tokens.flatten() for tokens in used]))
        for batch in batches:
            if self.is_recorded:
                torch.compiler.cudagraph_mark_step_begin()
            # rows of their own, which a feed may give all the same, have many shapes: compiled where that is asked for
            is_wanted = batch.inputs.segments is not None or self.settings.training.compile is True
            batch_loss = (self._loss_of if is_wanted else self.loss)(batch, candidates)
            (batch_loss / n_everywhere()).backward()
            loss += batch_loss.detach()
        self._apply_gradients(self.window.close() if self.window and batches else [])
        return StepSums(loss, n_targets)

    def most_targets(self, batch: SequenceBatch[Tokens]) -> int:
        """A bound of a packed batch's targets; where steps are compiled, one that hardly ever grows."""
        n_positions = batch.token_ids.size
        needed = self.objective.most_targets(batch.lengths, n_positions)
        if not self.is_compiled:
            return needed
        if needed > self._bounds.get(n_positions, 0):
            # each bound is another graph; the fewer positions there are, the more their batches differ
            room, unit = 1 + 16 / n_positions**0.5, max(1, n_positions // 64)
            self._bounds[n_positions] = min(n_positions, unit * ceil(needed * room / unit))
        return self._bounds[n_positions]

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Compute losses as they are written, for those who count operations."""
        compiled, self._loss_of = self._loss_of, self.loss
        try:
            yield
        finally:
            self._loss_of = compiled

    def _begin_sum(self, n_targets: int | Tensor) -> Callable[[], float | Tensor]:
        # a process alone keeps the tensor: to make a number of it is to wait for the device
        if self.ranks.world_size == 1:
            return lambda: n_targets
        wait = self.ranks.begin_sum([float(n_targets)])
        return lambda: wait()[0]

    def loss(self, batch: TrainingBatch, candidates: Tensor | None) -> Tensor:
        """The loss summed over a batch's targets."""
        encoder = self.encoder
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16):
            hidden = encoder.encode_at(batch.inputs, batch.positions)  # [M, D]

            # quoted: the compiler knows no union of types that it would have to make
            def score(tokens: Tensor, rows: "Tensor | None" = None) -> Tensor:
                return encoder.logits(encoder.output_vectors(hidden if rows is None else hidden[rows]), tokens)

            return self.objective.loss(hidden, batch.targets, candidates, score)

    def _apply_gradients(self, by_row: Sequence[RowGradient]) -> None:
        training = self.settings.training
        rate = learning_rate(training, self.n_steps, self.steps_per_epoch)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        if self.ranks.world_size > 1:
            for table, rows, gradient in by_row:
                is_used = (gradient != 0).any(dim=1)
                table.grad = torch.sparse_coo_tensor(rows[is_used].unsqueeze(0), gradient[is_used], table.shape)
            by_row = []
            self._fill_gradients()
        self.ranks.sum_gradients(self.encoder.parameters())
        # sparse gradients are not clipped: RowAdam divides each by its own size
        dense = [p for p in self.encoder.parameters() if p.grad is not None and not p.grad.is_sparse]
        torch.nn.utils.clip_grad_norm_(dense, training.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for table, rows, gradient in by_row:  # of a process alone: nobody needs to know how many rows there are
            next(each for each in self.optimizers if isinstance(each, RowAdam)).update(table, rows, gradient, True)
        self.n_steps += 1

    def _fill_gradients(self) -> None:
        """Zeros where there is no gradient: all ranks must exchange the same ones, also one without a batch."""
        tables = {id(table) for table in self.encoder.row_parameters()} if self.encoder.has_sparse_tables else set()
        for parameter in self.encoder.parameters():
            if parameter.grad is None and parameter.requires_grad:
                if id(parameter) not in tables:
                    parameter.grad = torch.zeros_like(parameter)
                else:
                    no_rows = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
                    values = parameter.new_empty(0, parameter.shape[1])
                    parameter.grad = torch.sparse_coo_tensor(no_rows, values, parameter.shape)

    def _seed(self, use: int) -> int:
        return mix_seed(self.seed, self.n_steps, self.ranks.rank, use)


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def packs_rows(settings: EncoderSettings, device: torch.device) -> bool:
    """Whether training on a device is to read packed rows, and the encoder and its objective can."""
    wants = settings.training.packing
    is_wanted = device.type == "cuda" if wants == "auto" else wants
    encoder, objective = ENCODERS[settings.architecture], OBJECTIVES[settings.objective]
    return is_wanted and encoder.reads_segments and objective.takes_packed


def open_feed(settings: EncoderSettings, ranks: Ranks, make: Callable[[int], Feed], row_width: int = 0) -> Feed:
    """The feed of one rank's training, packed where ``packs_rows``.

    Parameters
    ----------
    make : makes the feed whose batches have so many positions
    row_width : of packed rows; 0 for one that suits a GPU
    """
    tokens, device = settings.training.tokens_per_batch, ranks.device(settings.training.device)
    if not packs_rows(settings, device):
        return make(tokens)
    width = max(row_width or ROW_WIDTH, settings.max_length)
    # small batches are packed several at once, of pieces that are worth a call
    return PackedFeed(make(max(tokens, WINDOW) // PIECES), width, tokens, is_pinned=device.type == "cuda")
