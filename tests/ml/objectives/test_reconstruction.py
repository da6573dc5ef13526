"""The decoder's classes, its loss, and that it learns through the last hidden state."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from event_streams import event_settings, shop_vocabulary, train_on_shop

from conf.encoders import EncoderSettings, ReconstructionSettings
from ml.data.sequence_batch import SequenceBatch
from ml.objectives.reconstruction import Reconstruction
from ml.objectives.registry import require_encoder
from schemas.errors import ConfigError

SETTINGS = event_settings(objective="reconstruction", reconstruction=ReconstructionSettings(frequent_items=4))


def decoder_of() -> tuple[Reconstruction, Any]:
    objective = Reconstruction(SETTINGS, shop_vocabulary())
    torch.manual_seed(0)
    return objective, objective.build_heads(4)


def test_an_item_is_its_category_its_price_and_its_rank_among_the_frequent_ones_of_its_kind() -> None:
    classes = decoder_of()[1].classes
    assert classes[3].tolist() == [1, 1, 2, 0]
    assert classes[6].tolist() == [2, 100, 5, 0]
    assert classes[7].tolist() == [2, 100, 1, 0]  # the fifth sku is rare
    assert classes[9].tolist() == [0, 0, 0, 2]  # the first url
    assert classes[15].tolist() == [0, 0, 0, 0]  # a query
    assert classes[0].tolist() == [0, 0, 0, 0]


def test_the_loss_sums_the_fields_that_an_event_has_whatever_the_padding() -> None:
    objective, decoder = decoder_of()
    row = SequenceBatch(torch.tensor([[3, 15]]), torch.tensor([[3, 2]]))
    hidden = torch.randn(1, 4)
    batch = objective.prepare(row, torch.Generator())
    assert (batch.positions.tolist(), batch.n_targets) == ([1], 2)
    loss = objective.loss(hidden, batch.targets, None, lambda tokens, rows=None: tokens)

    # a sku: type 3, category 1, price 1, class 2; then a query, which has a type alone
    first = torch.cat([torch.zeros(1, 4), hidden], dim=1)
    known = sum(decoder.tables[number].weight[value] for number, value in enumerate((3, 1, 1, 2, 0)))
    second = torch.cat([known.unsqueeze(0), hidden], dim=1)
    states = decoder.layer(torch.stack([first, second], dim=1))[0][0]
    expected = sum(
        F.cross_entropy(decoder.fields[number](states[event]), torch.tensor(value))
        for event, number, value in ((0, 0, 3), (0, 1, 1), (0, 2, 1), (0, 3, 2), (1, 0, 2))
    )
    torch.testing.assert_close(loss, expected)
    padded = objective.prepare(row.map(lambda column: F.pad(column, (3, 0))), torch.Generator())
    torch.testing.assert_close(objective.loss(hidden, padded.targets, None, lambda tokens, rows=None: tokens), expected)


def test_one_behaviour_alone_is_refused() -> None:
    require_encoder("again", SETTINGS)
    with pytest.raises(ConfigError, match=r"^encoders\.again\.objective=reconstruction: expected several behaviours"):
        require_encoder("again", EncoderSettings(behaviours=("page_visit",), objective="reconstruction"))


def test_an_encoder_learns_to_keep_what_the_decoder_needs(tmp_path: Path) -> None:
    losses, result = train_on_shop("reconstruction", 6, tmp_path)
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(losses).all()
    assert result.metrics is None
