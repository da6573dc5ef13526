import pytest
import torch

from conf.encoders import MaskingSettings
from ml.objectives.cloze import IGNORE_INDEX, MaskedBatch, hidden_batch, hide_last, mask_tokens, shift_tokens
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
    token_ids = rows.repeat(times, 1)
    return token_ids, mask_tokens(token_ids, N_TOKENS, MaskingSettings(**settings), seeded())


def is_hidden(batch):
    return batch.labels != IGNORE_INDEX


@pytest.mark.parametrize("mask_prob", [0.0, 0.15, 0.9, 1.0])
def test_each_row_hides_a_token_and_keeps_one_in_sight(mask_prob):
    token_ids, batch = mask_many(mask_prob=mask_prob)

    assert is_hidden(batch).any(dim=1).all()
    assert ((token_ids != PAD) & ~is_hidden(batch)).any(dim=1).all()


def test_only_items_are_hidden_never_padding_or_unknown_ones():
    token_ids, batch = mask_many(mask_prob=0.9)

    assert (token_ids[is_hidden(batch)] >= FIRST_ITEM).all()


def test_labels_are_the_hidden_tokens_and_the_others_stay_as_they_are():
    token_ids, batch = mask_many()

    assert torch.equal(batch.labels[is_hidden(batch)], token_ids[is_hidden(batch)])
    assert torch.equal(batch.inputs[~is_hidden(batch)], token_ids[~is_hidden(batch)])


def test_random_replacements_are_uniform_items_and_never_special_tokens():
    _, batch = mask_many(ROWS[2:], times=20_000, mask_share=0.0, random_share=1.0, last_only_share=0.0)
    drawn = batch.inputs[is_hidden(batch)]
    share = torch.bincount(drawn, minlength=N_TOKENS) / len(drawn)

    assert share[:FIRST_ITEM].tolist() == [0, 0, 0]
    assert share[FIRST_ITEM:].tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_hidden_tokens_are_masked_replaced_and_kept_by_the_given_shares():
    token_ids, batch = mask_many(
        ROWS[2:], times=20_000, mask_prob=0.5, mask_share=0.6, random_share=0.3, last_only_share=0.0
    )
    shown, true = batch.inputs[is_hidden(batch)], token_ids[is_hidden(batch)]

    assert (shown == MASK).float().mean().item() == pytest.approx(0.6, abs=0.01)
    assert (shown == true).float().mean().item() == pytest.approx(0.1 + 0.3 / 10, abs=0.01)


def test_the_share_of_hidden_tokens_is_mask_prob():
    rows = torch.arange(3, 13).repeat(1, 5)
    _, batch = mask_many(rows, mask_prob=0.3, last_only_share=0.0)

    assert is_hidden(batch).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_each_token_of_a_short_row_is_as_likely_to_be_hidden():
    _, batch = mask_many(ROWS[:1], times=10_000, mask_prob=1.0, last_only_share=0.0)

    assert is_hidden(batch).float().mean(dim=0).tolist() == pytest.approx([0, 0, 0.5, 0.5], abs=0.02)


def test_the_given_share_of_rows_hides_its_last_item_alone_by_the_mask():
    rows = torch.arange(3, 13).repeat(1, 5)
    _, batch = mask_many(rows, mask_prob=0.5, mask_share=0.0, random_share=1.0, last_only_share=0.25)
    is_last_only = batch.inputs[:, -1] == MASK

    assert is_last_only.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (is_hidden(batch)[is_last_only].sum(dim=1) == 1).all()
    assert (is_hidden(batch)[~is_last_only].sum(dim=1) > 1).all()


def test_a_row_that_ends_in_an_unknown_item_is_masked_elsewhere():
    _, batch = mask_many(ROWS[1:2], times=1, last_only_share=1.0)

    assert batch.labels.tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 3, IGNORE_INDEX]]


def test_the_same_seed_gives_the_same_masks_and_another_seed_others():
    settings = MaskingSettings()
    rows = ROWS.repeat(20, 1)
    first, again, other = (mask_tokens(rows, N_TOKENS, settings, seeded(seed)) for seed in (1, 1, 2))

    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_rows_of_a_single_token_are_refused_with_their_number():
    rows = torch.tensor([[PAD, 3], [PAD, 4], [3, 4]])

    with pytest.raises(ValueError, match="2 of 3 rows have fewer than two tokens"):
        mask_tokens(rows, N_TOKENS, MaskingSettings(), seeded())


def test_rows_without_an_item_are_refused_with_their_number():
    with pytest.raises(ValueError, match="1 of 2 rows hold no item"):
        mask_tokens(torch.tensor([[UNK, UNK], [3, 4]]), N_TOKENS, MaskingSettings(), seeded())


@pytest.mark.parametrize(
    ("is_causal", "inputs"), [(False, [[PAD, 3, MASK], [5, 6, MASK]]), (True, [[PAD, PAD, 3], [PAD, 5, 6]])]
)
def test_validation_hides_the_last_token_alone(is_causal, inputs):
    batch = hide_last(torch.tensor([[PAD, 3, 4], [5, 6, UNK]]), is_causal)

    assert batch.inputs.tolist() == inputs
    assert batch.labels.tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, UNK]]


def test_validation_refuses_rows_that_end_in_padding():
    with pytest.raises(ValueError, match="1 of 2 rows end in PAD or MASK"):
        hide_last(torch.tensor([[3, PAD], [3, 4]]), is_causal=False)


def test_shifted_each_token_is_predicted_where_the_one_before_it_stands():
    batch = shift_tokens(torch.tensor([[PAD, 3, 4, UNK], [5, 6, 7, 8]]))

    assert batch.inputs.tolist() == [[PAD, PAD, 3, 4], [PAD, 5, 6, 7]]
    assert batch.labels.tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 4, UNK], [IGNORE_INDEX, 6, 7, 8]]


def test_a_hidden_batch_lists_positions_labels_and_the_distinct_ones():
    inputs = torch.tensor([[0, 3, MASK], [MASK, 4, MASK]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 9], [5, IGNORE_INDEX, 9]])
    batch = hidden_batch(MaskedBatch(inputs, labels))

    assert batch.positions.tolist() == [2, 3, 5]
    assert batch.labels.tolist() == [9, 5, 9]
    assert batch.positives.tolist() == [5, 9]
    assert batch.targets.tolist() == [1, 0, 1]
    assert batch.to(torch.device("cpu")) is batch
