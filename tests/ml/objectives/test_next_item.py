from dataclasses import replace

import torch
from packed_rows import both_layouts, random_sequences
from small_encoders import batch_of, settings_of

from conf.encoders import LossSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives import item_prediction
from ml.objectives.losses import NO_LABEL
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import TrainingBatch
from schemas.tokens import PAD, UNK

BCE = LossSettings(name="bce")
OBJECTIVE = NextItem(settings_of(), VocabularyDescription(13))


def test_each_token_is_predicted_where_the_one_before_it_is():
    batch = OBJECTIVE.prepare(batch_of([PAD, 3, 4, UNK], [5, 6, 7, 8]), torch.Generator())

    assert batch.inputs.token_ids.tolist() == [[PAD, PAD, 3, 4], [PAD, 5, 6, 7]]
    assert batch.positions.tolist() == [2, 3, 5, 6, 7]
    assert batch.targets["labels"].tolist() == [4, UNK, 6, 7, 8]


def test_every_column_moves_with_the_tokens():
    batch = SequenceBatch(torch.tensor([[PAD, 3, 4]]), timestamps=torch.tensor([[0, 30, 40]]))

    assert OBJECTIVE.prepare(batch, torch.Generator()).inputs.timestamps.tolist() == [[0, 0, 30]]


def test_validation_shows_all_but_the_last_token():
    assert OBJECTIVE.without_last(batch_of([PAD, 3, 4], [5, 6, UNK])).token_ids.tolist() == [[PAD, PAD, 3], [PAD, 5, 6]]


def test_packed_sequences_are_asked_for_the_same_items_from_the_same_ones_before() -> None:
    padded, packed = both_layouts(random_sequences(30, 50), n_rows=8, width=32)
    bound = OBJECTIVE.most_targets(packed.lengths, packed.token_ids.size)
    one = OBJECTIVE.prepare(padded.tensors(), torch.Generator())
    other = OBJECTIVE.prepare(packed.tensors(), torch.Generator(), bound)

    assert int(other.n_targets) == one.n_targets == int(packed.lengths.sum()) - 30 <= bound
    assert other.positions.shape == other.targets["labels"].shape == (bound,)

    def pairs(batch: TrainingBatch) -> list[tuple[int, int]]:
        seen = batch.inputs.token_ids.flatten()[batch.positions]
        found = zip(seen.tolist(), batch.targets["labels"].tolist(), strict=True)
        return sorted(pair for pair in found if pair[1] != NO_LABEL)

    assert pairs(other) == pairs(one)
    is_first = torch.diff(packed.tensors().segments, dim=1, prepend=torch.zeros(8, 1, dtype=torch.int64)) != 0
    assert not other.inputs.token_ids[is_first].any()
    assert not other.inputs.segments[is_first].any()


def test_bce_knows_the_first_item_of_a_packed_sequence_too(monkeypatch):
    monkeypatch.setattr(item_prediction, "OWN_DRAWS", 64)
    objective = NextItem(settings_of(attention="causal", loss=BCE), VocabularyDescription(8))
    packed = replace(batch_of([3, 4, 5, 6, 7, 7, 0]), segments=torch.tensor([[1, 1, 1, 1, 2, 2, 0]]))
    for seed in range(20):
        negatives = objective.prepare(packed, torch.Generator().manual_seed(seed), most_targets=4).targets["negatives"]
        assert negatives[:3].tolist() == [7, 7, 7], "the others are all held"
        assert negatives[3] != 7


def test_bce_draws_one_negative_of_each_targets_own_that_its_row_does_not_hold():
    objective = NextItem(settings_of(loss=BCE), VocabularyDescription(13))
    batch, generator = batch_of([3, 4, 5, 6], [7, 8, 9, 10]), torch.Generator().manual_seed(7)
    draws = torch.stack([objective.prepare(batch, generator).targets["negatives"] for _ in range(300)])

    assert draws.shape == (300, 6)
    assert objective.draw_candidates(generator) is None
    for target in range(6):
        held = batch.token_ids[target // 3].tolist()
        assert set(draws[:, target].tolist()) - set(held) == set(range(3, 13)) - set(held)
        assert sum(drawn in held for drawn in draws[:, target].tolist()) < 30, "only where all of four draws are held"
    assert (draws[0] != draws[0, 0]).any()
