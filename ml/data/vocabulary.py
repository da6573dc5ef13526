"""What encoders and objectives must know of a vocabulary."""

from dataclasses import dataclass, field, replace

from ml.data.item_attributes import ItemAttributes
from schemas.tokens import FIRST_ITEM

# the largest uint8, which ``item_kind`` is: no stream has so many item columns
NO_KIND = 255
"""Of a column that no item comes from."""


@dataclass(frozen=True)
class VocabularyDescription:
    """The size of a vocabulary and, for that of a merged stream, what is known of its items.

    Attributes
    ----------
    n_tokens : the special tokens and the items
    item_columns : what its items come from, such as sku, url, query (``kind_of``); none without attributes
    n_categories : values of ``ItemAttributes.category``, 0 among them; 0 without attributes
    attributes_digest : of the attributes, empty without
    attributes : None where there are none, and when a model is rebuilt from its folder: an encoder keeps those that it
        reads as buffers, whose shapes follow from the numbers above. No part of a model's card
    """

    n_tokens: int
    item_columns: tuple[str, ...] = ()
    n_categories: int = 0
    attributes_digest: str = ""
    attributes: ItemAttributes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_attributes(cls, attributes: ItemAttributes, item_columns: tuple[str, ...]) -> "VocabularyDescription":
        """The description of a vocabulary whose items' attributes are at hand."""
        n_categories = 1 + int(attributes.category.max())
        return cls(len(attributes), item_columns, n_categories, attributes.digest(), attributes)

    @property
    def n_items(self) -> int:
        """Tokens that are items."""
        return self.n_tokens - FIRST_ITEM

    def kind_of(self, column: str) -> int:
        """What ``ItemAttributes.item_kind`` has for the items of a column."""
        return 1 + self.item_columns.index(column) if column in self.item_columns else NO_KIND

    def attributes_for(self, objective: str) -> ItemAttributes:
        """The attributes, which an objective needs to train; ValueError where they are not at hand."""
        if self.attributes is None:
            raise ValueError(f"{objective}: expected a vocabulary with its items' attributes, to train on")
        return self.attributes

    def without_arrays(self) -> "VocabularyDescription":
        """What a model's card keeps of it."""
        return replace(self, attributes=None)
