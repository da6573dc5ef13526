"""Which events the dense all-action objective asks for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_encoders import batch_of, settings_of, transformer, without_dropout

from conf.encoders import AllActionSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.all_action import SECONDS_PER_DAY, AllAction
from ml.objectives.losses import NO_LABEL
from ml.objectives.next_item import moved_right

VOCABULARY = VocabularyDescription(40)


def targets(batch, n_draws=200, **settings):
    """Position -> the labels that it gets over many draws: its state is of the event before, for all move right."""
    objective = AllAction(settings_of(all_action=AllActionSettings(**settings)), VOCABULARY)
    found, generator = {}, torch.Generator().manual_seed(7)
    for _ in range(n_draws):
        prepared = objective.prepare(batch, generator, 0 if batch.segments is None else batch.token_ids.numel())
        assert torch.equal(prepared.inputs.token_ids, moved_right(batch).token_ids)
        for position, label in zip(prepared.positions.tolist(), prepared.targets["labels"].tolist(), strict=True):
            if label != NO_LABEL:
                found.setdefault(position, set()).add(label)
    return found


def test_a_target_is_any_of_the_next_events_where_times_are_not_known():
    found = targets(batch_of([0, 3, 4, 5, 6], [0, 0, 0, 7, 8]), events=2)
    assert found == {2: {4, 5}, 3: {5, 6}, 4: {6}, 9: {8}}


def test_a_target_is_any_event_of_the_next_days_or_else_the_next_one():
    days = torch.tensor([[0, 1, 2, 3, 9]]) * SECONDS_PER_DAY
    found = targets(SequenceBatch(torch.tensor([[0, 3, 4, 5, 6]]), timestamps=days), days=2, events=1)
    assert found == {2: {4, 5}, 3: {5}, 4: {6}}


def test_so_many_positions_of_each_row_are_drawn():
    objective = AllAction(settings_of(all_action=AllActionSettings(positions=2)), VOCABULARY)
    batch = batch_of([0, 3, 4, 5, 6], [0, 0, 0, 7, 8])
    draws = [objective.prepare(batch, torch.Generator().manual_seed(seed)).positions for seed in range(20)]
    assert {tuple((positions // 5).tolist()) for positions in draws} == {(0, 0, 1)}
    assert len({tuple(positions.tolist()) for positions in draws}) == 3


def test_packed_sequences_are_asked_for_their_own_events():
    tokens, segments = (
        torch.tensor([[3, 4, 5, 6, 7, 8, 0], [9, 9, 9, 0, 0, 0, 0]]),
        [[2, 2, 2, 2, 1, 1, 0], [3, 3, 3] + [0] * 4],
    )
    packed = SequenceBatch(tokens, segments=torch.tensor(segments))
    assert targets(packed, events=2) == {1: {4, 5}, 2: {5, 6}, 3: {6}, 5: {8}, 8: {9}, 9: {9}}
    days = torch.tensor([[1, 2, 3, 9, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]]) * SECONDS_PER_DAY
    assert targets(replace(packed, timestamps=days), days=2, events=1) == {
        **{1: {4, 5}, 2: {5}, 3: {6}, 5: {8}},
        **{8: {9}, 9: {9}},
    }
    objective = AllAction(settings_of(all_action=AllActionSettings(positions=1)), VOCABULARY)
    bound = objective.most_targets(np.array([2, 4, 3]), 14)
    prepared = objective.prepare(packed, torch.Generator(), bound)
    assert int(prepared.n_targets) == bound == 3
    assert [position // 7 * 2 + (position % 7 > 3) for position in prepared.positions.tolist()] == [0, 1, 2]


def test_validation_asks_as_next_item_does():
    objective = AllAction(settings_of(), VOCABULARY)
    assert objective.without_last(batch_of([0, 3, 4])).token_ids.tolist() == [[0, 0, 3]]
    assert AllAction.needs_causal


@pytest.mark.parametrize("name", ["sampled", "bce"])
def test_it_takes_the_losses_of_next_item(name):
    settings = settings_of(all_action=AllActionSettings(positions=3))
    settings = replace(settings, loss=replace(settings.loss, name=name, n_negatives=3))
    objective, generator = AllAction(settings, VOCABULARY), torch.Generator()
    prepared = objective.prepare(batch_of([0, 3, 4, 5, 6]), generator)

    def score(tokens):
        return torch.zeros(3, tokens.shape[-1], requires_grad=True)

    loss = objective.loss(torch.zeros(3, 2), prepared.targets, objective.draw_candidates(generator), score)
    assert loss.isfinite()
    assert loss > 0


def test_the_position_of_the_newest_event_is_trained():
    """Inference reads a sequence there."""
    settings = without_dropout(4, 6, attention="causal")
    encoder = transformer(settings, VOCABULARY.n_tokens)
    objective = AllAction(settings, VOCABULARY)
    prepared = objective.prepare(batch_of([0, 3, 4, 5, 6]), torch.Generator())
    hidden = encoder.output_vectors(encoder.encode_at(prepared.inputs, prepared.positions))
    objective.loss(hidden, prepared.targets, None, lambda tokens: encoder.logits(hidden, tokens)).backward()
    assert encoder.embedding.position_table.weight.grad[0].abs().sum() > 0
