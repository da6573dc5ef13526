"""Past against future: where rows are cut, what is compared, and a training without a ranking."""

import math
from pathlib import Path

import pytest
import torch
from event_streams import event_settings, shop_vocabulary, train_on_shop
from torch import nn

from conf.encoders import ContrastiveSettings, EncoderSettings
from ml.data.sequence_batch import SequenceBatch
from ml.objectives.contrastive import Contrastive
from ml.objectives.registry import require_encoder
from schemas.errors import ConfigError

DAY = 86_400
SETTINGS = event_settings(objective="contrastive", contrastive=ContrastiveSettings(temperature=0.5))
OBJECTIVE = Contrastive(SETTINGS, shop_vocabulary())
# the third client's second event comes too late to be a future
PAIRS = SequenceBatch(
    token_ids=torch.tensor([[0, 3, 4], [0, 5, 6], [0, 7, 8]]),
    timestamps=torch.tensor([[0, 1, 2], [0, 1, 1 + 14 * DAY], [0, 1, 2 + 14 * DAY]]),
)


def test_pasts_come_first_and_then_the_futures_that_there_are() -> None:
    batch = OBJECTIVE.prepare(PAIRS, torch.Generator())
    assert batch.inputs.token_ids.tolist() == [[0, 0, 3], [0, 0, 5], [0, 0, 7], [0, 0, 4], [0, 0, 6]]
    assert batch.inputs.timestamps.tolist()[3:] == [[0, 0, 2], [0, 0, 1 + 14 * DAY]]
    assert batch.positions.tolist() == [2, 5, 8, 11, 14]
    assert batch.targets["of_future"].tolist() == [0, 1]
    assert batch.targets["has_future"].tolist() == [1, 1, 0]
    assert batch.n_targets == 3


def test_a_row_is_cut_anywhere_and_its_future_ends_after_the_days() -> None:
    days = [0, 1, 5, 30]
    row = SequenceBatch(torch.tensor([[0, 3, 4, 5, 6]]), timestamps=torch.tensor([[0, *(DAY * day for day in days)]]))
    found = set()
    for seed in range(40):
        inputs = OBJECTIVE.prepare(row, torch.Generator().manual_seed(seed)).inputs
        found.add(tuple(tuple(token for token in each if token) for each in inputs.token_ids.tolist()))
        assert not (inputs.token_ids[:, -1] == 0).any()
    assert found == {((3,), (4, 5)), ((3, 4), (5,)), ((3, 4, 5),)}


def test_the_loss_is_of_the_right_future_among_the_batchs_and_of_whether_there_is_one() -> None:
    heads = OBJECTIVE.build_heads(2)
    for layer in (heads.past, heads.future):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(heads.has_future.weight)
    nn.init.constant_(heads.has_future.bias, 1.0)
    # pasts of three clients; futures of the first two: cosines are 1 and 0, lengths do not matter
    hidden = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    targets = OBJECTIVE.prepare(PAIRS, torch.Generator()).targets
    loss = OBJECTIVE.loss(hidden, targets, None, lambda tokens, rows=None: tokens)

    matched = math.log(2) + math.log(2)  # both futures point where the first past does
    comes_back = 2 * math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))
    assert loss.item() == pytest.approx(3 / 2 * matched + comes_back)


def test_sequences_without_times_are_refused() -> None:
    require_encoder("pair", SETTINGS)
    with pytest.raises(ConfigError, match=r"^encoders\.pair\.objective=contrastive: .* set .*event_columns=true"):
        require_encoder("pair", EncoderSettings(behaviours=("page_visit",), objective="contrastive"))


def test_the_loss_falls_and_the_last_epoch_is_kept(tmp_path: Path) -> None:
    losses, result = train_on_shop("contrastive", 4, tmp_path)
    assert losses[-1] < losses[0] - 1
    assert result.best_epoch == 4
    assert result.metrics is None


@torch.no_grad()
def test_cosines_keep_their_digits_where_products_are_bfloat16() -> None:
    objective = Contrastive(event_settings(contrastive=ContrastiveSettings(temperature=0.01)), shop_vocabulary())
    heads = objective.build_heads(2)
    for layer in (heads.past, heads.future):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    targets = {"of_future": torch.tensor([0, 1]), "has_future": torch.ones(2)}
    hidden = torch.tensor([[3.0, 1.0], [1.0, 3.0], [3.0, 1.25], [2.75, 1.0]])  # bfloat16 holds each of these numbers
    losses = []
    for is_bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            losses.append(float(objective.loss(hidden, targets, None, lambda tokens, rows=None: tokens)))
    # the binary term is of a product of two numbers: it is rounded
    assert losses[1] == pytest.approx(losses[0], abs=0.01)


def test_the_days_of_a_future_are_counted_to_the_second() -> None:
    start = 1_660_000_000
    times = torch.tensor([[0, start, start + 14 * DAY + 1], [0, start, start + 14 * DAY]])
    batch = OBJECTIVE.prepare(SequenceBatch(torch.tensor([[0, 3, 4], [0, 5, 6]]), timestamps=times), torch.Generator())
    assert batch.targets["has_future"].tolist() == [0, 1]
