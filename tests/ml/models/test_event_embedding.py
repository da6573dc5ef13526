"""What an event of a merged stream is: its item's parts, its context, and how it is compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from event_streams import event_settings, shop_rows, shop_vocabulary

from conf.encoders import EncoderSettings, EventEmbeddingSettings
from ml.data.sequence_batch import SequenceBatch
from ml.models.event_embedding import EventContext, EventTable, event_times
from ml.models.item_embeddings import hashed_rows
from ml.models.transformer import Transformer
from ml.training.checkpoint import ModelCard, load_model, save_model
from ml.training.step import Learner
from schemas.errors import ConfigError

SKU, SKU_WITHOUT_CATEGORY, URL, QUERY = 3, 8, 9, 15
DAY, HOUR = 86_400, 3600


def table_of(ids: Any) -> EventTable:
    """A table whose projection is the identity: a vector is its parts, of eight columns each."""
    settings = event_settings(hidden_size=24, event_embedding=EventEmbeddingSettings(width=8, ids=ids))
    torch.manual_seed(0)
    table = EventTable(settings, shop_vocabulary())
    table.initialise()
    with torch.no_grad():
        table.projection.weight.copy_(torch.eye(24))
    return table


def id_vector(table: EventTable, key: int) -> torch.Tensor:
    rows = [1 + int(row) for row in hashed_rows(torch.tensor(key), len(table.weight) - 1)]
    first, second = table.weight[rows]
    return (first + second) / 2 if table.averages else torch.cat([first, second])


@pytest.mark.parametrize("ids", ["concatenate", "mean"])
def test_an_item_is_its_ids_its_price_and_its_codes(ids: Any) -> None:
    table = table_of(ids)
    vectors = table.vectors(torch.tensor([[SKU, SKU_WITHOUT_CATEGORY, URL, QUERY, 0]]))
    assert vectors.shape == (1, 5, 24)
    sku, other, url, query, pad = vectors[0].split(1)
    none = torch.zeros(8)
    # token 3 is of category 1, price 1, codes of 1: an id's key is twice a token, or one more than twice a category
    of_ids = (id_vector(table, 2 * SKU) + id_vector(table, 3)) / 2
    torch.testing.assert_close(sku[0], torch.cat([of_ids, table.price_table[1], table.code_table[1]]))
    torch.testing.assert_close(other[0], torch.cat([id_vector(table, 2 * SKU_WITHOUT_CATEGORY), none, none]))
    torch.testing.assert_close(url[0], torch.cat([id_vector(table, 2 * URL), none, none]))
    torch.testing.assert_close(query[0], torch.cat([none, none, table.code_table[256]]))
    assert torch.equal(pad, torch.zeros(1, 24))


def test_a_sku_with_a_name_and_no_category_is_told_from_another_of_that_name() -> None:
    vocabulary = shop_vocabulary()
    attributes = vocabulary.attributes
    assert attributes is not None
    attributes.category[:] = 0
    attributes.codes[SKU:SKU_WITHOUT_CATEGORY] = 7
    table = EventTable(event_settings(), vocabulary)
    assert (table.rows(torch.tensor([SKU, SKU + 1]))[:, 0] > 0).all()
    assert (table.rows(torch.tensor([QUERY])) == 0).all()


def test_codes_are_averaged() -> None:
    table = table_of("mean")
    table.codes[SKU] = torch.arange(1, 17)
    vector = table.vectors(torch.tensor([SKU]))
    torch.testing.assert_close(vector[0, 16:], table.code_table[1:17].mean(dim=0))


def test_outputs_are_compared_by_the_cosine_of_a_perceptron_of_the_content() -> None:
    encoder = transformer_of(event_settings(temperature=0.1))
    table = encoder.item_table
    items, hidden = torch.tensor([SKU, URL]), torch.randn(3, 16)
    outputs = table.output(table.vectors(items))
    torch.testing.assert_close(encoder.item_vectors(items), outputs)
    expected = F.cosine_similarity(encoder.head(hidden)[:, None], outputs, dim=2) / 0.1
    torch.testing.assert_close(encoder.logits(encoder.output_vectors(hidden), items), expected)
    own = encoder.logits(encoder.output_vectors(hidden), items.expand(3, 2))
    torch.testing.assert_close(own, expected)


def test_times_are_of_the_event_and_of_what_came_before_it_in_its_sequence() -> None:
    # the 1st of January 1970 was a Thursday
    batch = SequenceBatch(
        token_ids=torch.tensor([[0, 3, 3, 3]]), timestamps=torch.tensor([[0, 23 * HOUR, 25 * HOUR, 4 * DAY]])
    )
    times = event_times(batch)
    assert times["weekday"].tolist()[0][1:] == [3, 4, 0]
    assert times["hour"].tolist()[0][1:] == [23, 1, 0]
    torch.testing.assert_close(times["since_previous"], torch.tensor([[0, 0, 2.0, 71.0]]).log1p())
    torch.testing.assert_close(times["since_first"], torch.tensor([[0, 0, 2 / 24, 4 - 23 / 24]]).log1p())


def test_a_row_that_two_clients_share_has_two_first_events() -> None:
    batch = SequenceBatch(
        token_ids=torch.tensor([[3, 3, 3, 3, 0]]),
        timestamps=torch.tensor([[9 * DAY, 10 * DAY, 2 * DAY, 5 * DAY, 0]]),
        segments=torch.tensor([[1, 1, 2, 2, 0]]),
    )
    times = event_times(batch)
    torch.testing.assert_close(times["since_previous"], torch.tensor([[0, 24.0, 0, 72.0, 0]]).log1p())
    torch.testing.assert_close(times["since_first"], torch.tensor([[0, 1.0, 0, 3.0, 0]]).log1p())


PARTS = ("event_type", "weekday", "hour", "since_previous", "since_first")


@pytest.mark.parametrize("name", PARTS)
def test_each_part_of_the_context_can_be_left_out(name: str) -> None:
    parts = {part: part != name for part in PARTS}
    context = EventContext(event_settings(event_embedding=EventEmbeddingSettings(width=8, **parts)))
    assert list(context.parts) == [part for part in PARTS if part != name]
    batch = shop_rows(2).batch(np.arange(2), 6).tensors()
    every, alone = (
        EventContext(event_settings(event_embedding=EventEmbeddingSettings(width=8, **chosen)))
        for chosen in ({}, {part: part == name for part in PARTS})
    )
    whole = every(batch, None)
    assert whole.shape == (12, 16)
    context.parts.load_state_dict({key: every.parts.state_dict()[key] for key in context.parts.state_dict()})
    alone.parts.load_state_dict({key: every.parts.state_dict()[key] for key in alone.parts.state_dict()})
    torch.testing.assert_close(context(batch, None) + alone(batch, None), whole)
    torch.testing.assert_close(every(batch, torch.tensor([1, 7])), whole[[1, 7]])


def transformer_of(settings: EncoderSettings) -> Transformer:
    torch.manual_seed(0)
    return Transformer(settings, shop_vocabulary()).eval()


def test_neither_padding_nor_batch_mates_nor_later_events_change_a_vector() -> None:
    encoder, rows = transformer_of(event_settings()), shop_rows(3)
    both, wide = rows.batch(np.array([0, 1]), 6).tensors(), rows.batch(np.array([0]), 8).tensors()
    hidden = encoder.encode(both)
    torch.testing.assert_close(encoder.encode(wide)[:, 2:], hidden[:1])
    for column, value in (("token_ids", QUERY), ("event_types", 2), ("timestamps", 2 * 10**9)):
        changed = getattr(both, column).clone()
        changed[:, -1] = value
        other = encoder.encode(replace(both, **{column: changed}))
        torch.testing.assert_close(other[:, :-1], hidden[:, :-1])
        assert not torch.allclose(other[:, -1], hidden[:, -1])


def test_a_step_changes_only_the_rows_of_ids_that_it_uses_by_sparse_gradients() -> None:
    learner = Learner(event_settings(table_rows=5000), shop_vocabulary())
    table = learner.encoder.item_table.weight
    before = table.detach().clone()
    learner.step([shop_rows(2).batch(np.arange(2), 6)])
    assert table.grad is not None
    assert table.grad.is_sparse
    changed = (table != before).any(dim=1)
    # two rows for each of 17 tokens and 2 categories, at most
    assert 1 < int(changed.sum()) <= 38
    assert not changed[0]
    n_dense = max(p.numel() for p in learner.encoder.dense_parameters())
    assert n_dense < len(table)


def test_a_model_folder_holds_the_attributes(tmp_path: Path) -> None:
    settings = event_settings()
    encoder = transformer_of(settings)
    save_model(tmp_path / "mixed", encoder, ModelCard("mixed", settings, shop_vocabulary(), "f", 0), {})
    loaded, _ = load_model(tmp_path / "mixed")
    tokens = torch.arange(17)
    assert torch.equal(loaded.item_vectors(tokens), encoder.item_vectors(tokens))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="table=events: expected several behaviours"):
        EncoderSettings(behaviours=("page_visit",), table="events")
    with pytest.raises(ConfigError, match=r"event_embedding\.context: .* set event_columns=true"):
        EncoderSettings(behaviours=("page_visit",), event_embedding=EventEmbeddingSettings(context=True))
    with pytest.raises(ConfigError, match="width must be even"):
        EventEmbeddingSettings(width=7)
    assert EncoderSettings(behaviours=("page_visit",)).table_kind == "full"
    assert not EncoderSettings(behaviours=("page_visit",), event_columns=True).has_context
    assert not event_settings(event_columns=False).has_context
