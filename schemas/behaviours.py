"""The kinds of item that a behaviour's events can hold, and the challenge's five behaviours."""

from enum import StrEnum


class ItemKind(StrEnum):
    """How the item of an event is written in the source file."""

    ID = "id"
    """An int64 id (sku, url)."""
    CODES = "codes"
    """Sixteen integers 0-255 in brackets, e.g. ``[12 255 0 ...]`` (a quantised embedding)."""


PRODUCT_BUY = "product_buy"
ADD_TO_CART = "add_to_cart"
REMOVE_FROM_CART = "remove_from_cart"
PAGE_VISIT = "page_visit"
SEARCH_QUERY = "search_query"

CODES_PER_QUERY = 16
"""Numbers in one query or product name."""
