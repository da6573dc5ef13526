"""The heads of the next event: their targets, their losses, and a training with all of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from event_streams import N_SKUS, event_settings, shop_rows, shop_vocabulary
from torch import Tensor

from conf.encoders import InferenceSettings, NextEventSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.packing import pack_batches
from ml.data.sequence_batch import SequenceBatch
from ml.inference.embed import embed_sequences
from ml.objectives.next_event import NextEvent
from ml.objectives.protocol import TrainingBatch
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from ml.training.step import Learner

VISIT, SEARCH, BUY = 1, 2, 3
HOUR = 3600
HIDDEN = 4
OFF = {"type": False, "time": False, "url": False, "item": False}
# skus 3 to 8, urls 9 to 14, queries 15 and 16; the second row buys what the first does, and something else
BATCH = SequenceBatch(
    token_ids=torch.tensor([[0, 9, 10, 4, 15], [11, 10, 4, 5, 4]]),
    event_types=torch.tensor([[0, VISIT, VISIT, BUY, SEARCH], [VISIT, VISIT, BUY, BUY, BUY]]),
    timestamps=torch.tensor([[0, 0, HOUR, HOUR, 4 * HOUR], [0, 0, 0, 2 * HOUR, 2 * HOUR]]),
)
SCORES = torch.randn(7, 17, generator=torch.Generator().manual_seed(7))
"""Of all tokens, at the seven positions with a next event."""


def objective_of(**heads: Any) -> NextEvent:
    settings = NextEventSettings(**{"in_batch_negatives": 64, "uniform_negatives": 3, **heads})
    objective = NextEvent(event_settings(next_event=settings), shop_vocabulary())
    torch.manual_seed(0)
    objective.build_heads(HIDDEN)
    return objective


def prepared(objective: NextEvent, seed: int = 0) -> TrainingBatch:
    return objective.prepare(BATCH, torch.Generator().manual_seed(seed))


def score(tokens: Tensor, rows: Tensor | None = None) -> Tensor:
    scores = SCORES if rows is None else SCORES[rows]
    return scores[:, tokens] if tokens.ndim == 1 else scores.gather(1, tokens)


def loss_of(objective: NextEvent, uniform: list[int] | None = None) -> float:
    batch = prepared(objective)
    hidden = torch.arange(7 * HIDDEN).reshape(7, HIDDEN) / 10
    candidates = None if uniform is None else torch.tensor(uniform)
    return objective.loss(hidden, batch.targets, candidates, score).item()


def test_each_event_is_predicted_where_the_one_before_it_is() -> None:
    batch = prepared(objective_of())
    assert batch.inputs.token_ids.tolist() == [[0, 0, 9, 10, 4], [0, 11, 10, 4, 5]]
    assert batch.inputs.event_types.tolist() == [[0, 0, VISIT, VISIT, BUY], [0, VISIT, VISIT, BUY, BUY]]
    assert batch.inputs.timestamps.tolist() == [[0, 0, 0, HOUR, HOUR], [0, 0, 0, 0, 2 * HOUR]]
    assert batch.positions.tolist() == [2, 3, 4, 6, 7, 8, 9]
    assert batch.n_targets == 7
    assert (batch.targets["types"] + 1).tolist() == [VISIT, BUY, SEARCH, VISIT, BUY, BUY, BUY]
    hours = [1, 0, 3, 0, 0, 2, 0]
    torch.testing.assert_close(batch.targets["waits"], torch.tensor([math.log(1 + hour) for hour in hours]))


def test_a_head_asks_the_positions_whose_next_event_has_its_kind_of_item() -> None:
    targets = prepared(objective_of()).targets
    assert targets["url/positions"].tolist() == [0, 3]
    assert targets["item/positions"].tolist() == [1, 4, 5, 6]
    assert targets["item/sequences"].tolist() == [0, 1, 1, 1]
    drawn = sorted(zip(targets["item/drawn_of"].tolist(), targets["item/drawn"].tolist(), strict=True))
    assert drawn == [(-1, 0)] * 3 + [(0, 4), (1, 4), (1, 4), (1, 5)]


def test_no_more_negatives_of_the_batch_are_drawn_than_the_settings_say() -> None:
    objective = objective_of(in_batch_negatives=1)
    drawn = [prepared(objective, seed).targets for seed in range(20)]
    # the one draw is a target of the first row or of the second
    assert {(int(of["item/drawn_of"]), int(of["item/drawn"])) for of in drawn} == {(0, 4), (1, 4), (1, 5)}
    assert torch.equal(drawn[3]["item/drawn"], prepared(objective, 3).targets["item/drawn"])


def test_packed_rows_are_asked_for_the_same_and_cost_the_same() -> None:
    rows = shop_rows(60).batch(np.arange(60), 8)
    padded = rows.map(lambda column: np.where(np.arange(8) >= 2 + np.arange(60)[:, None] % 4, column, 0))
    (packed,) = pack_batches(iter([padded]), n_rows=20, width=32)
    settings = event_settings(next_event=NextEventSettings(in_batch_negatives=1000, uniform_negatives=5))
    torch.manual_seed(0)
    learner = Learner(settings, shop_vocabulary())
    objective = learner.objective
    bound = objective.most_targets(packed.lengths, packed.token_ids.size)
    losses = []
    for batch, most in ((padded, 0), (packed, bound)):
        made = objective.prepare(batch.tensors(), torch.Generator().manual_seed(1), most)
        assert int(made.n_targets) == padded.lengths.sum() - 60 <= bound
        losses.append(float(learner.loss(made, torch.tensor([3, 4, 8])).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    few = objective.prepare(packed.tensors(), torch.Generator().manual_seed(1), 50)
    assert (len(few.positions), int(few.n_targets)) == (50, 50)


def test_uniform_negatives_are_skus() -> None:
    objective = objective_of(uniform_negatives=200)
    drawn = objective.draw_candidates(torch.Generator().manual_seed(0))
    assert drawn is not None
    assert sorted(set(drawn.tolist())) == list(range(3, 3 + N_SKUS))
    assert objective_of(item=False).draw_candidates(torch.Generator()) is None


def test_the_types_loss_is_a_cross_entropy_and_the_times_a_square() -> None:
    hidden = torch.arange(7 * HIDDEN).reshape(7, HIDDEN) / 10
    of_type, of_time = objective_of(**OFF | {"type": True}), objective_of(**OFF | {"time": True})
    heads = of_type.heads
    assert heads is not None
    types = torch.tensor([0, 2, 1, 0, 2, 2, 2])
    waits = torch.tensor([math.log(1 + hour) for hour in (1, 0, 3, 0, 0, 2, 0)])
    assert loss_of(of_type) == pytest.approx(float(F.cross_entropy(heads.to_type(hidden), types, reduction="sum")))
    assert loss_of(of_time) == pytest.approx(float((heads.to_wait(hidden)[:, 0] - waits).square().sum()), rel=1e-5)


def test_a_heads_loss_is_its_mean_times_the_positions() -> None:
    # url 10 is the one target of both rows: it is no negative of its own
    assert loss_of(objective_of(**OFF | {"url": True})) == 0

    # each row of BATCH has url 10 as its target; with another one in the second row they are each other's negatives
    other = replace(BATCH, token_ids=torch.tensor([[0, 9, 10, 4, 15], [11, 12, 4, 5, 4]]))
    objective = objective_of(**OFF | {"url": True})
    batch = objective.prepare(other, torch.Generator())
    loss = objective.loss(torch.zeros(7, HIDDEN), batch.targets, None, score)
    first = -math.log(SCORES[0, 10].exp() / (SCORES[0, 10].exp() + SCORES[0, 12].exp()))
    second = -math.log(SCORES[3, 12].exp() / (SCORES[3, 10].exp() + SCORES[3, 12].exp()))
    assert float(loss) == pytest.approx(7 / 2 * (first + second))


def test_the_items_loss_is_the_corrected_one_with_the_mixture_of_both_kinds_of_draws() -> None:
    # n_events are 1 to 6 of the skus 3 to 8, 21 together; 4 has 2, 5 has 3, 7 has 5. Uniform draws: 7, 4, 7.
    loss = loss_of(objective_of(**OFF | {"item": True}), uniform=[7, 4, 7])

    def corrected(position: int, label: int, n_4: int, n_5: int) -> float:
        n_in_batch, n_draws = n_4 + n_5, n_4 + n_5 + 3
        probability = {
            sku: (n_in_batch * n_events / 21 + 3 / 6) / n_draws for sku, n_events in ((4, 2), (5, 3), (7, 5))
        }
        drawn = {4: n_4 + 1, 5: n_5, 7: 2}
        del drawn[label]
        total = sum(n * math.exp(SCORES[position, sku]) / probability[sku] for sku, n in drawn.items())
        own = math.exp(SCORES[position, label])
        weight = 1 - own / (own + total / n_draws)
        return -weight * math.log(own / total)

    terms = [corrected(1, 4, 2, 1), corrected(4, 4, 1, 0), corrected(5, 5, 1, 0), corrected(6, 4, 1, 0)]
    assert loss == pytest.approx(7 / 4 * sum(terms), rel=1e-5)


def test_the_draws_estimate_the_sum_over_all_other_skus() -> None:
    objective = objective_of(**OFF | {"item": True})
    shares = objective.heads.sku_shares[3:9]
    generator = torch.Generator().manual_seed(1)
    n, sums = 40, []
    for _ in range(3000):
        of_data = torch.multinomial(shares, n, replacement=True, generator=generator)
        drawn = torch.cat([of_data, torch.randint(6, (n,), generator=generator)])
        probability = shares[drawn] / 2 + 1 / 12
        sums.append(((SCORES[0, 3 + drawn].exp() / probability) * (drawn != 1)).sum() / len(drawn))
    others = SCORES[0, 3:9].exp().sum() - SCORES[0, 4].exp()
    assert float(torch.stack(sums).mean()) == pytest.approx(float(others), rel=0.01)


@pytest.mark.parametrize("head", OFF)
def test_the_loss_is_the_sum_of_the_heads_that_are_on(head: str) -> None:
    uniform = [7, 4, 7]
    alone = loss_of(objective_of(**OFF | {head: True}), uniform)
    others = loss_of(objective_of(**{head: False}), uniform)
    assert loss_of(objective_of(), uniform) == pytest.approx(alone + others, rel=1e-5)


def test_a_batch_without_a_target_of_a_head_costs_nothing() -> None:
    settings = event_settings(next_event=NextEventSettings(**OFF | {"url": True, "item": True}, uniform_negatives=2))
    searches = SequenceBatch(np.array([[15, 16]]), np.array([[SEARCH, SEARCH]]), np.array([[0, HOUR]]))
    assert float(Learner(settings, shop_vocabulary()).step([searches]).loss) == 0


def test_validation_shows_all_but_the_last_event() -> None:
    inputs = objective_of().without_last(BATCH)
    assert inputs.token_ids.tolist() == [[0, 0, 9, 10, 4], [0, 11, 10, 4, 5]]
    assert inputs.timestamps.tolist() == [[0, 0, 0, HOUR, HOUR], [0, 0, 0, 0, 2 * HOUR]]
    with pytest.raises(ValueError, match="end in PAD"):
        objective_of().without_last(SequenceBatch(torch.tensor([[3, 0]])))


def test_batches_without_events_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="expected batches with event_types, found none"):
        objective_of().prepare(SequenceBatch(BATCH.token_ids), torch.Generator())
    with pytest.raises(ValueError, match="expected a vocabulary with its items' attributes"):
        NextEvent(event_settings(), shop_vocabulary().without_arrays()).build_heads(HIDDEN)


def test_a_mixed_encoder_learns_what_comes_next_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    training = TrainingSettings(n_ranks=1, epochs=6, tokens_per_batch=64, learning_rate=1e-2)
    card = ModelCard("mixed", event_settings(training=training), shop_vocabulary(), "a-fingerprint", 0)
    job = TrainingJob(card, tmp_path / "models" / "mixed", tmp_path / "checkpoints", seed=1)
    rows, held_out = shop_rows(120), shop_rows(40, seed=1)
    lines: list[Any] = []
    result = train_model(job, ArrayFeed(rows, held_out, (8,), tokens_per_batch=64, seed=1), Ranks(), lines.append)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.1 * losses[0]
    assert result.metrics is not None
    assert result.metrics.ndcg_at_10 > 0.9

    encoder, loaded = load_model(job.folder, "a-fingerprint")
    assert loaded == card
    vectors = embed_sequences(encoder, held_out, InferenceSettings(pooling="last"))
    assert vectors.shape == (40, 16)
    # rows of one sku are alike, and unlike those of another
    skus = held_out.tokens[::6]
    distance = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    is_same = skus[:, None] == skus
    assert distance[is_same].max() < distance[~is_same].min()


def test_the_urls_loss_knows_no_uniform_skus() -> None:
    other = replace(BATCH, token_ids=torch.tensor([[0, 9, 10, 4, 15], [11, 12, 4, 5, 4]]))
    objective = objective_of(**OFF | {"url": True})
    targets = objective.prepare(other, torch.Generator()).targets
    losses = [
        float(objective.loss(torch.zeros(7, HIDDEN), targets, drawn, score)) for drawn in (None, torch.tensor([3, 4]))
    ]
    assert losses[0] == losses[1] > 0
