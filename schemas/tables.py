"""The Delta tables under ``OUT/tables``: name, columns and partitioning, one entry per table.

Columns are DDL so that this module needs no Spark. Every column is nullable for Delta's sake; the ones
that may really be null say so in a comment.
"""

from dataclasses import dataclass

from schemas.behaviours import ItemKind


@dataclass(frozen=True)
class TableSchema:
    """What a table holds.

    Attributes
    ----------
    name : folder under ``OUT/tables``
    grain : what one row is
    ddl : the columns, in order, as Spark DDL
    partition_by : partition columns, may be empty
    """

    name: str
    grain: str
    ddl: str
    partition_by: tuple[str, ...] = ()


def events_table(behaviour: str, item_column: str, kind: ItemKind) -> TableSchema:
    """The typed events of one behaviour: one row per event.

    An item of kind ``CODES`` is kept as its canonical string ``[a b ...]``, single spaces, no leading zeros.
    """
    item_type = "bigint" if kind is ItemKind.ID else "string"
    return TableSchema(behaviour, "one event", f"client_id bigint, timestamp timestamp_ntz, {item_column} {item_type}")


PRODUCT_PROPERTIES = TableSchema(
    "product_properties",
    "one sku; category, price and name may be null",
    "sku bigint, category bigint, price bigint, name string",
)
QUARANTINE = TableSchema(
    "quarantine",
    "one rejected source row; row holds it whole, as JSON",
    "source string, reason string, row string",
)
WINDOWS = TableSchema(
    "windows",
    "the one row of boundaries: inputs are events < input_end; targets are [train_start, valid_start) and "
    "[valid_start, end]",
    "mode string, input_end timestamp_ntz, train_start timestamp_ntz, valid_start timestamp_ntz, end timestamp_ntz",
)
CLIENTS = TableSchema(
    "clients",
    "one relevant client; position is its row in every entry; is_active: has a purchase in the input window",
    "position bigint, client_id bigint, is_active boolean",
)
VOCABULARIES = TableSchema(
    "vocabularies",
    "one item of one behaviour; token ids by falling n_events, then key",
    "behaviour string, key string, token_id int, n_events bigint",
    ("behaviour",),
)
SEQUENCES = TableSchema(
    "sequences",
    "one client of one behaviour: its last token ids, oldest first; n_events counts before truncation; "
    "width >= length of token_ids is the batch width that the feed pads to",
    "behaviour string, is_held_out boolean, width int, client_id bigint, token_ids array<int>, n_events bigint",
    ("behaviour", "is_held_out", "width"),
)
EMBEDDINGS = TableSchema(
    "embeddings",
    "one relevant client; present lists the behaviours in which it has events",
    "position bigint, client_id bigint, embedding array<float>, present array<string>",
)
LABELS = TableSchema(
    "labels",
    "one label of one propensity task; label is its place in the label arrays; popularity: its share of the "
    "train window's purchases",
    "task string, label int, id bigint, popularity double",
)
TARGETS = TableSchema(
    "targets",
    "one client of one task and window; labels holds 0 and 1 in the order of the label file",
    "task string, window string, position bigint, client_id bigint, labels array<tinyint>",
    ("task", "window"),
)
SCORES = TableSchema(
    "scores",
    "one entry's result on one task; novelty and diversity are null for churn and conversion",
    "entry string, task string, score double, auroc double, novelty double, diversity double",
)
