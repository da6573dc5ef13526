from dataclasses import replace

import pytest
import torch
from packed_rows import both_layouts, random_sequences
from small_encoders import batch_of, settings_of

from conf.encoders import MaskingSettings
from ml.data.baskets import basket_numbers
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.cloze import Cloze, mask_tokens
from ml.objectives.losses import NO_LABEL
from schemas.errors import ConfigError
from schemas.tokens import FIRST_ITEM, MASK, PAD, UNK

N_TOKENS = 13
ROWS = torch.tensor(
    [
        [PAD, PAD, 3, 4],  # the shortest that can be trained on
        [PAD, UNK, 3, UNK],  # one item, among unknown ones
        [5, 6, 7, 8],
    ]
)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def mask_many(rows=ROWS, times=2000, **settings):
    """Token ids, what the encoder reads of them, and where they are masked."""
    token_ids = rows.repeat(times, 1)
    return token_ids, *mask_tokens(token_ids, N_TOKENS, MaskingSettings(**settings), seeded())


@pytest.mark.parametrize("mask_prob", [0.0, 0.15, 0.9, 1.0])
def test_each_row_has_a_token_masked_and_keeps_one(mask_prob):
    token_ids, _, is_masked = mask_many(mask_prob=mask_prob)

    assert is_masked.any(dim=1).all()
    assert ((token_ids != PAD) & ~is_masked).any(dim=1).all()


def test_only_items_are_masked_never_padding_or_unknown_ones():
    token_ids, _, is_masked = mask_many(mask_prob=0.9)

    assert (token_ids[is_masked] >= FIRST_ITEM).all()


def test_tokens_that_are_not_masked_stay_as_they_are():
    token_ids, inputs, is_masked = mask_many()

    assert torch.equal(inputs[~is_masked], token_ids[~is_masked])


def test_random_replacements_are_uniform_items_and_never_special_tokens():
    _, inputs, is_masked = mask_many(ROWS[2:], times=20_000, mask_share=0.0, random_share=1.0, last_only_share=0.0)
    drawn = inputs[is_masked]
    share = torch.bincount(drawn, minlength=N_TOKENS) / len(drawn)

    assert share[:FIRST_ITEM].tolist() == [0, 0, 0]
    assert share[FIRST_ITEM:].tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_masked_tokens_become_mask_or_another_item_or_stay_by_the_given_shares():
    token_ids, inputs, is_masked = mask_many(
        ROWS[2:], times=20_000, mask_prob=0.5, mask_share=0.6, random_share=0.3, last_only_share=0.0
    )
    shown, true = inputs[is_masked], token_ids[is_masked]

    assert (shown == MASK).float().mean().item() == pytest.approx(0.6, abs=0.01)
    assert (shown == true).float().mean().item() == pytest.approx(0.1 + 0.3 / 10, abs=0.01)


def test_the_share_of_masked_tokens_is_mask_prob():
    rows = torch.arange(3, 13).repeat(1, 5)
    _, _, is_masked = mask_many(rows, mask_prob=0.3, last_only_share=0.0)

    assert is_masked.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_each_token_of_a_short_row_is_as_likely_to_be_masked():
    _, _, is_masked = mask_many(ROWS[:1], times=10_000, mask_prob=1.0, last_only_share=0.0)

    assert is_masked.float().mean(dim=0).tolist() == pytest.approx([0, 0, 0.5, 0.5], abs=0.02)


def test_the_given_share_of_rows_has_its_last_item_alone_masked_always_by_mask():
    rows = torch.arange(3, 13).repeat(1, 5)
    _, inputs, is_masked = mask_many(rows, mask_prob=0.5, mask_share=0.0, random_share=1.0, last_only_share=0.25)
    is_last_only = inputs[:, -1] == MASK

    assert is_last_only.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (is_masked[is_last_only].sum(dim=1) == 1).all()
    assert (is_masked[~is_last_only].sum(dim=1) > 1).all()


def test_a_row_that_ends_in_an_unknown_item_is_masked_elsewhere():
    _, _, is_masked = mask_many(ROWS[1:2], times=1, last_only_share=1.0)

    assert is_masked.tolist() == [[False, False, True, False]]


def test_the_same_seed_gives_the_same_masks_and_another_seed_others():
    settings = MaskingSettings()
    rows = ROWS.repeat(20, 1)
    first, again, other = (mask_tokens(rows, N_TOKENS, settings, seeded(seed)) for seed in (1, 1, 2))

    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], other[1])


def test_rows_of_a_single_token_are_refused_with_their_number():
    rows = torch.tensor([[PAD, 3], [PAD, 4], [3, 4]])

    with pytest.raises(ValueError, match="2 of 3 rows have fewer than two tokens"):
        mask_tokens(rows, N_TOKENS, MaskingSettings(), seeded())


def test_rows_without_an_item_are_refused_with_their_number():
    with pytest.raises(ValueError, match="1 of 2 rows hold no item"):
        mask_tokens(torch.tensor([[UNK, UNK], [3, 4]]), N_TOKENS, MaskingSettings(), seeded())


OBJECTIVE = Cloze(settings_of(), VocabularyDescription(N_TOKENS))


def test_masked_tokens_are_what_is_to_be_predicted():
    rows = ROWS.repeat(20, 1)
    inputs, is_masked = mask_tokens(rows, N_TOKENS, MaskingSettings(), seeded())
    batch = OBJECTIVE.prepare(batch_of(*rows.tolist()), seeded())

    assert torch.equal(batch.inputs.token_ids, inputs)
    assert torch.equal(batch.positions, is_masked.flatten().nonzero().squeeze(1))
    assert torch.equal(batch.targets["labels"], rows[is_masked])


def test_validation_masks_the_last_token_alone():
    assert OBJECTIVE.without_last(batch_of([PAD, 3, 4], [5, 6, UNK])).token_ids.tolist() == [
        [PAD, 3, MASK],
        [5, 6, MASK],
    ]


def test_validation_shows_neither_type_nor_time_of_the_event_that_is_asked_for():
    batch = replace(batch_of([3, 4, 5]), event_types=torch.tensor([[1, 2, 3]]), timestamps=torch.tensor([[10, 20, 99]]))
    asked = OBJECTIVE.without_last(batch)
    assert asked.token_ids.tolist() == [[3, 4, MASK]]
    assert asked.event_types.tolist() == [[1, 2, 2]]
    assert asked.timestamps.tolist() == [[10, 20, 20]]
    alone = replace(batch_of([3]), event_types=torch.tensor([[1]]), timestamps=torch.tensor([[10]]))
    assert OBJECTIVE.without_last(alone).timestamps.tolist() == [[10]]


@pytest.mark.parametrize(
    "settings", [{"mask_prob": 0.0}, {"mask_prob": 0.3}, {"mask_prob": 1.0, "last_only_share": 0.5}]
)
def test_in_packed_rows_each_sequence_is_masked_as_one_that_has_a_row(settings):
    _, packed = both_layouts(random_sequences(400, N_TOKENS), n_rows=80, width=32)
    batch = packed.tensors()
    token_ids, numbers = batch.token_ids, batch.segments
    n_masked = {}
    for layout in ("packed", "padded"):
        counts = []
        for seed in range(20):
            if layout == "packed":
                inputs, is_masked = mask_tokens(token_ids, N_TOKENS, MaskingSettings(**settings), seeded(seed), numbers)
                of_sequence = torch.zeros(401).index_add_(0, numbers.flatten(), is_masked.flatten().float())[1:]
                lengths = torch.from_numpy(packed.lengths)
                assert (of_sequence >= 1).all()
                assert (of_sequence < lengths).all()
                assert not is_masked[numbers == 0].any()
                assert torch.equal(inputs[~is_masked], token_ids[~is_masked])
            else:
                rows = both_layouts(random_sequences(400, N_TOKENS), n_rows=80)[0].tensors().token_ids
                _, is_masked = mask_tokens(rows, N_TOKENS, MaskingSettings(**settings), seeded(seed))
            counts.append(int(is_masked.sum()))
        n_masked[layout] = counts
    mean = sum(n_masked["padded"]) / 20
    assert sum(n_masked["packed"]) / 20 == pytest.approx(mean, rel=0.03)
    bound = Cloze(settings_of(masking=MaskingSettings(**settings)), VocabularyDescription(N_TOKENS)).most_targets(
        packed.lengths, packed.token_ids.size
    )
    assert max(n_masked["packed"]) <= bound <= max(n_masked["packed"]) + 80 * 32 / 16 + 6 * 20


def test_a_sequence_of_a_packed_row_may_have_its_last_item_alone_masked():
    _, packed = both_layouts(random_sequences(50, N_TOKENS), n_rows=16, width=32)
    batch = packed.tensors()
    masking = MaskingSettings(last_only_share=1.0)
    inputs, is_masked = mask_tokens(batch.token_ids, N_TOKENS, masking, seeded(), batch.segments)
    follows = torch.nn.functional.pad(batch.segments[:, 1:], (0, 1))

    assert torch.equal(is_masked, (batch.segments != follows) & (batch.segments > 0))
    assert (inputs[is_masked] == MASK).all()


def test_targets_past_the_bound_are_left_out_and_the_rest_of_it_is_none():
    _, packed = both_layouts(random_sequences(50, N_TOKENS), n_rows=16, width=32)
    objective = Cloze(settings_of(), VocabularyDescription(N_TOKENS))
    few, many = (objective.prepare(packed.tensors(), seeded(), bound) for bound in (10, 300))

    assert int(few.n_targets) == 10
    assert (few.targets["labels"] != NO_LABEL).all()
    assert torch.equal(few.targets["labels"], many.targets["labels"][:10])
    assert int((many.targets["labels"] != NO_LABEL).sum()) == int(many.n_targets)
    # a GPU would add up the gradients of one position, padding's, one after the other
    assert many.positions.unique(return_counts=True)[1].max() <= 2
    found = many.targets["columns"] != NO_LABEL
    assert torch.equal(many.targets["positives"][many.targets["columns"][found]], many.targets["labels"][found])


def test_a_basket_is_masked_as_a_whole_and_never_the_only_one():
    days = torch.tensor([[0, 1, 1, 2, 2, 3], [0, 0, 5, 5, 5, 5]]) * 86_400
    batch = SequenceBatch(torch.tensor([[0, 3, 4, 5, 6, 7], [0, 0, 3, 4, 5, 6]]), timestamps=days)
    settings = MaskingSettings(unit="basket", mask_prob=0.4, last_only_share=0.0)
    generator, seen = torch.Generator().manual_seed(7), set()
    for _ in range(200):
        is_masked = mask_tokens(batch.token_ids, 20, settings, generator, baskets=basket_numbers(batch))[1]
        first, second = is_masked.tolist()
        assert first[1] == first[2]
        assert first[3] == first[4]
        assert 0 < sum(first) < 5
        assert 0 < sum(second) < 4, "of one basket the items are masked one by one"
        seen.add(tuple(first))
    assert len(seen) == 6, "each basket alone, and each two of the three"


def test_an_encoder_that_reads_no_times_has_no_baskets():
    for changes in ({"masking": MaskingSettings(unit="basket")}, {"positions": "basket"}):
        with pytest.raises(ConfigError, match="expected an encoder that reads times, for baskets are days"):
            settings_of(**changes)
        settings_of(**changes, event_columns=True)
