"""One step: what it draws, what it sums, what it changes."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from event_streams import event_settings, shop_rows, shop_vocabulary
from packed_rows import both_layouts, random_sequences
from small_encoders import without_dropout
from torch._dynamo.utils import counters

from conf.encoders import EncoderSettings, LossSettings
from conf.training import TrainingSettings
from ml.data.sequence_batch import SequenceBatch, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.cloze import mask_tokens
from ml.objectives.item_prediction import predict_tokens
from ml.objectives.protocol import TrainingBatch
from ml.training.distributed import Ranks
from ml.training.row_window import RowWindow
from ml.training.step import MAY_COMPILE_ANY_SHAPE, Learner, mix_seed
from schemas.tokens import FIRST_ITEM

N_TOKENS = FIRST_ITEM + 40
VOCABULARY = VocabularyDescription(N_TOKENS)
FULL = without_dropout(hidden_size=16, max_length=8, training=TrainingSettings(n_ranks=1))
ALL = slice(None)
SAMPLED = replace(FULL, loss=LossSettings(name="sampled", n_negatives=1))


def learner_of(settings: EncoderSettings, seed: int = 0, ranks: Ranks | None = None) -> Learner:
    return Learner(settings, VOCABULARY, seed, ranks)


def tokens(n_rows: int) -> SequenceBatch[Tokens]:
    return SequenceBatch(np.random.default_rng(0).integers(FIRST_ITEM, N_TOKENS, (n_rows, 8), dtype=np.int32))


def masked(batch: SequenceBatch[Tokens], rows: slice = ALL, seed: int = 0) -> TrainingBatch:
    """Some rows of a batch whose masks are drawn as a whole."""
    token_ids = batch.tensors().token_ids
    inputs, is_masked = mask_tokens(token_ids, N_TOKENS, FULL.masking, torch.Generator().manual_seed(seed))
    return predict_tokens(SequenceBatch(inputs[rows]), token_ids[rows], is_masked[rows])


def same_weights(one: Learner, other: Learner) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True))


class SecondRank(Ranks):
    rank = 1


def test_masks_follow_the_seed_the_step_and_the_rank() -> None:
    batch = [tokens(20)]
    learners = [learner_of(FULL), learner_of(FULL), learner_of(FULL, ranks=SecondRank()), learner_of(FULL, seed=1)]
    losses = [float(learner.step(batch).loss) for learner in learners]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert same_weights(*learners[:2])
    assert not same_weights(learners[0], learners[2])


@pytest.mark.parametrize("settings", [FULL, SAMPLED], ids=["full", "sampled"])
def test_several_batches_of_one_step_count_as_one_batch(settings: EncoderSettings) -> None:
    # every item is a candidate in both, so that the sampled losses are comparable
    one, several = learner_of(settings), learner_of(settings)
    candidates = torch.arange(FIRST_ITEM, N_TOKENS) if one.objective.is_sampled else None
    batch = tokens(10)
    parts = [masked(batch, rows) for rows in (slice(7), slice(7, None))]
    sums = one.update([masked(batch)], candidates), several.update(parts, candidates)
    assert sums[0].n_targets == sums[1].n_targets
    torch.testing.assert_close(sums[0].loss, sums[1].loss)
    for pair in zip(one.encoder.parameters(), several.encoder.parameters(), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)


def test_with_a_sparse_table_a_step_changes_only_the_rows_it_uses() -> None:
    learner = learner_of(SAMPLED)
    before = learner.encoder.item_table.weight.detach().clone()
    learner.step([SequenceBatch(np.array([[3, 4, 5]]))])
    changed = (learner.encoder.item_table.weight != before).any(dim=1)
    assert 1 <= int(changed.sum()) <= 6
    assert not changed[0]


def test_the_gradient_of_a_table_holds_each_row_once_before_it_is_sent() -> None:
    learner = learner_of(SAMPLED)
    learner.step([SequenceBatch(np.array([[3, 3, 3, 4], [4, 4, 3, 3]]))])
    for table in learner.encoder.row_parameters():
        assert table.grad is not None
        rows = table.grad._indices()[0]
        assert len(rows.unique()) == len(rows)


@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_half_precision_gives_nearly_the_same_loss_in_whole_numbers_and_leaves_weights_whole(name: Any) -> None:
    settings = replace(FULL, loss=LossSettings(name=name, n_negatives=20))
    halved = replace(settings, training=replace(settings.training, precision="bfloat16"))
    learner, batch = learner_of(halved), tokens(30)
    whole = learner_of(settings)
    candidates = torch.arange(FIRST_ITEM, FIRST_ITEM + 20) if whole.objective.is_sampled else None
    of_batch = learner.loss(masked(batch), candidates)
    assert of_batch.dtype == torch.float32
    loss, exact = float(learner.step([batch]).loss), float(whole.step([batch]).loss)
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)
    assert {parameter.dtype for parameter in learner.encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("settings", [FULL, SAMPLED], ids=["full", "sampled"])
def test_a_compiled_encoder_is_compiled_whole_and_learns_the_same(
    settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = learner_of(replace(settings, training=replace(settings.training, compile=True)))
    losses = [float(learner.step([tokens(20)]).loss) for learner in (learner_of(settings), compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert counters["aot_autograd"]["ok"] > 0
    assert counters["aot_autograd"]["not_ok"] == 0


def test_seeds_of_different_parts_differ() -> None:
    seeds = {mix_seed(1, step, rank, use) for step in range(5) for rank in range(5) for use in range(2)}
    assert len(seeds) == 50


def packed_batches(n: int, n_rows: int = 6, n_sequences: int = 20) -> list[SequenceBatch[Tokens]]:
    """Batches of one shape."""
    made = (both_layouts(random_sequences(n_sequences, N_TOKENS, seed=seed), n_rows, 32)[1] for seed in range(n))
    return list(made)


PACKED = replace(SAMPLED, loss=LossSettings(name="sampled", n_negatives=15))
COMPILED = {"compile": True, "packing": True}


@pytest.mark.parametrize("name", ["full", "sampled", "gbce", "bpr_max"])
def test_packed_sequences_lose_what_they_lose_in_rows_of_their_own(name: Any) -> None:
    of_loss = LossSettings(name=name, n_negatives=15)
    settings = replace(PACKED, loss=of_loss, attention="causal", objective="next_item")
    sums = []
    for batch in both_layouts(random_sequences(20, N_TOKENS), 6, 32):
        learner, generator = learner_of(settings), torch.Generator().manual_seed(3)
        bound = [96] if batch.segments is not None else []
        prepared = learner.objective.prepare(batch.tensors(), generator, *bound)
        candidates = learner.objective.draw_candidates(generator)
        loss = learner.update([prepared], candidates).loss
        sums.append((float(loss), int(prepared.n_targets), learner))
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)
    assert sums[0][1] == sums[1][1]
    for one, other in zip(*(learner.encoder.parameters() for *_, learner in sums), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["sampled", "gbce"])
def test_the_rows_of_a_step_alone_are_updated_as_by_sparse_gradients(name: Any) -> None:
    settings = replace(PACKED, loss=LossSettings(name=name, n_negatives=5))
    sparse, windowed = learner_of(settings), learner_of(settings)
    windowed.window = RowWindow(windowed.encoder)
    for batch in packed_batches(3):
        assert float(sparse.step([batch]).loss) == pytest.approx(float(windowed.step([batch]).loss), rel=1e-5)
    for table, window in windowed.window._windows.items():
        assert len(window.ids) <= len(table.weight)
    for one, other in zip(sparse.encoder.parameters(), windowed.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_all_steps_of_packed_rows_are_one_graph_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    compiled, eager = (
        learner_of(replace(PACKED, training=replace(PACKED.training, **training)))  # type: ignore[arg-type]
        for training in (COMPILED, {"compile": False, "packing": True})
    )
    for batch in packed_batches(4):
        assert float(compiled.step([batch]).loss) == pytest.approx(float(eager.step([batch]).loss), rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 1


class Pair(Ranks):
    """Two ranks, seen from the second, whose other one has this many targets and gradients of zero."""

    rank, world_size = 1, 2

    def __init__(self, n_targets: float) -> None:
        self.n_targets = n_targets

    def begin_sum(self, values: Iterable[float]) -> Callable[[], Any]:
        return lambda: np.array([self.n_targets + value for value in values])


def test_a_rank_without_a_batch_takes_part_with_zeros_until_none_has_one() -> None:
    assert learner_of(SAMPLED).step([]).is_over
    assert learner_of(SAMPLED, ranks=Pair(0)).step([]).is_over
    learner = learner_of(SAMPLED, ranks=Pair(7))
    sums = learner.step([])
    assert (sums.is_over, sums.n_targets, learner.n_steps) == (False, 0, 1)
    assert all(parameter.grad is not None for parameter in learner.encoder.parameters())
    assert {p.grad.is_sparse for p in learner.encoder.row_parameters() if p.grad is not None} == {True}


def event_learner(**values: Any) -> Learner:
    return Learner(event_settings(**values), shop_vocabulary())


@pytest.mark.parametrize("objective", ["next_event", "contrastive"])
@pytest.mark.parametrize("table", ["events", "full"])
def test_tables_that_are_no_longer_sparse_learn_the_same(objective: str, table: Any) -> None:
    """A window for what of a table a step uses, as on a GPU: rows of items, or those that an item's ids choose."""
    sparse, windowed = (event_learner(objective=objective, table=table) for _ in range(2))
    assert sparse.encoder.has_sparse_tables
    windowed.window = RowWindow(windowed.encoder)
    for rows in (shop_rows(12, seed=seed) for seed in range(3)):
        batch = rows.batch(np.arange(len(rows)), 8)
        assert float(sparse.step([batch]).loss) == pytest.approx(float(windowed.step([batch]).loss), rel=1e-5)
    for one, other in zip(sparse.encoder.parameters(), windowed.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_windows_tensors_stay_where_they_are_as_a_recorded_graph_needs_them() -> None:
    learner = learner_of(replace(PACKED, loss=LossSettings(name="sampled", n_negatives=5)))
    learner.window, places = RowWindow(learner.encoder), set()
    learner.is_compiled = True  # bounds of targets then hardly ever grow
    for batch in packed_batches(30):
        learner.step([batch])
        window = learner.window._windows[learner.encoder.item_table]
        places.add(tuple(each.data_ptr() for each in window if each is not None))
    assert len(places) == 1


def test_rows_of_their_own_that_are_compiled_make_few_graphs_though_each_step_uses_other_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    vocabulary, few = VocabularyDescription(FIRST_ITEM + 5000), LossSettings(name="sampled", n_negatives=5)
    learners = [
        Learner(replace(SAMPLED, loss=few, training=replace(SAMPLED.training, **training)), vocabulary)  # type: ignore[arg-type]
        for training in ({"compile": True, "packing": False}, {"compile": False})
    ]
    for n_rows in range(20, 29):
        batch = tokens(n_rows)
        compiled, sparse = (float(learner.step([batch]).loss) for learner in learners)
        assert compiled == pytest.approx(sparse, rel=1e-4)
    # a batch of another height, and a larger window
    assert counters["stats"]["unique_graphs"] <= 3 or not MAY_COMPILE_ANY_SHAPE


def test_a_bound_of_targets_hardly_ever_grows_when_each_one_is_another_graph() -> None:
    learner, bounds, needed = learner_of(PACKED), set(), set()
    for batch in packed_batches(100, n_rows=60, n_sequences=200):
        needed.add(learner.most_targets(batch))
        learner.is_compiled = True
        bounds.add(learner.most_targets(batch))
        learner.is_compiled = False
    assert len(needed) > 4
    assert len(bounds) <= 2
    assert max(needed) <= max(bounds) <= 1.6 * max(needed)


def test_every_encoder_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    monkeypatch.setattr(torch._dynamo.config, limit, 1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    counters.clear()
    for n_layers in (1, 2):
        learner = learner_of(replace(PACKED, n_layers=n_layers, training=replace(PACKED.training, **COMPILED)))  # type: ignore[arg-type]
        learner.step([next(iter(packed_batches(1)))])
        assert counters["stats"]["unique_graphs"] == n_layers


def test_all_dense_gradients_are_clipped_to_their_common_norm() -> None:
    learner = learner_of(replace(FULL, training=replace(FULL.training, clip_norm=0.01)))
    learner.step([tokens(20)])
    norms = [p.grad.norm() for p in learner.encoder.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.01, rel=1e-3)


def test_each_step_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, positions = learner_of(FULL), []
    prepare = learner.objective.prepare

    def note(*values: Any) -> Any:
        prepared = prepare(*values)
        positions.append(prepared.positions.tolist())
        return prepared

    monkeypatch.setattr(learner.objective, "prepare", note)
    for _ in range(2):
        learner.step([tokens(20)])
    assert positions[0] != positions[1]
