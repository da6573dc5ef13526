"""What encoders and objectives must know of a vocabulary."""

from dataclasses import dataclass

from schemas.tokens import FIRST_ITEM


@dataclass(frozen=True)
class VocabularyDescription:
    """The size of a vocabulary; attributes of its items will stand here too.

    Attributes
    ----------
    n_tokens : the special tokens and the items
    """

    n_tokens: int

    @property
    def n_items(self) -> int:
        """Tokens that are items."""
        return self.n_tokens - FIRST_ITEM
