"""Attributes of tokens in arrays, and the description of a vocabulary that has them."""

from pathlib import Path

import numpy as np
import pytest

from ml.data.item_attributes import ItemAttributes
from ml.data.vocabulary import VocabularyDescription
from schemas.errors import TrainingError


def attributes_of_five() -> ItemAttributes:
    attributes = ItemAttributes.unknown(5)
    attributes.item_kind[3:] = [1, 2]
    attributes.category[3], attributes.price[3], attributes.codes[3] = 7, 100, 256
    attributes.n_events[3:] = [9, 4]
    return attributes


def test_a_file_gives_back_the_arrays(tmp_path: Path) -> None:
    attributes = attributes_of_five()
    attributes.save(tmp_path / "attributes.safetensors")
    read = ItemAttributes.load(tmp_path / "attributes.safetensors")
    for name, array in vars(attributes).items():
        assert getattr(read, name).dtype == array.dtype
        np.testing.assert_array_equal(getattr(read, name), array)
    assert read.digest() == attributes.digest()
    with pytest.raises(TrainingError, match="expected the item attributes"):
        ItemAttributes.load(tmp_path / "none.safetensors")


def test_a_description_knows_the_shapes_of_what_an_encoder_keeps() -> None:
    described = VocabularyDescription.of_attributes(attributes_of_five(), ("sku", "url"))
    assert (described.n_tokens, described.n_items) == (5, 2)
    assert (described.item_columns, described.n_categories) == (("sku", "url"), 8)
    assert described.attributes_digest
    assert described.without_arrays().attributes_digest
    assert not VocabularyDescription(5).attributes_digest
