"""Semantic ids: which items share vectors."""

import numpy as np
import pytest
import torch
from small_encoders import settings_of

from ml.data.item_attributes import ItemAttributes
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_embeddings import HashedTable
from ml.models.semantic_table import SemanticTable, semantic_ids
from schemas.errors import ConfigError


def test_the_first_id_parts_groups_and_the_next_ones_what_is_left() -> None:
    low, high = np.full(16, 10), np.full(16, 200)
    codes = np.stack([0 * low, low, low, high, high + 1, 0 * low])
    ids = semantic_ids(np.tile(codes, (2, 1)))
    assert ids[0].tolist() == ids[5].tolist() == [0, 0, 0]
    assert (ids[:6] == ids[6:]).all(), "equal codes have equal ids"
    assert (ids[1] == ids[2]).all()
    assert ids[1, 0] != ids[3, 0]
    assert ids[1:5].min() == 1


def test_three_ids_of_256_clusters_tell_many_items_apart_and_repeat() -> None:
    codes = 1 + np.random.default_rng(7).integers(0, 256, (2000, 16))
    ids = semantic_ids(codes)
    assert ids.max() == 256
    assert len(np.unique(ids, axis=0)) > 1990
    assert len(np.unique(ids[:, 0])) > 200
    assert (ids == semantic_ids(codes)).all()


def test_a_vector_is_the_sum_of_its_ids_and_of_its_hashed_rows() -> None:
    attributes = ItemAttributes.unknown(9)
    attributes.codes[4:6], attributes.codes[6] = 10, 200
    settings = settings_of(hidden_size=2, n_heads=1, table_rows=50)
    table = SemanticTable(settings, VocabularyDescription.of_attributes(attributes, ("sku",)))
    table.initialise()
    hashed = HashedTable(2, 50)
    hashed.weight = table.weight
    tokens = torch.tensor([4, 5, 6, 7])
    own = table.vectors(tokens) - hashed.vectors(tokens)
    torch.testing.assert_close(own[0], own[1])
    torch.testing.assert_close(own[0], sum(table.parts[level, table.ids[4, level].long()] for level in range(3)))
    assert not torch.allclose(own[0], own[2])
    assert (own[3] == 0).all(), "no codes"
    assert (table.vectors(torch.tensor([0])) == 0).all()


def test_without_attributes_there_are_no_semantic_ids() -> None:
    with pytest.raises(ConfigError, match="table=semantic: expected several behaviours"):
        settings_of(table="semantic")
