"""The Delta tables under ``OUT/tables``: name, columns and partitioning, one entry per table; the source's contract.

Columns are DDL so that this module needs no Spark. Every column is nullable for Delta's sake; the ones
that may really be null say so in a comment.

The contract of a source has two levels. A **column** that is missing or stored as another kind of value (ids as
text, floats or decimals, say) is refused before anything is read: no row of such a file can be trusted. A **row**
that breaks a rule goes to ``quarantine`` with the reason of the first rule that it breaks, in the order of
``jobs/inputs/event_rules.py``; every other row is in its typed table. Columns that the contract does not name are
ignored, as is the order of columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.behaviours import CODES_PER_QUERY, ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, SKU, TIMESTAMP
from schemas.errors import TableError

INTEGERS = "an integer"
"""Any signed or unsigned width; dictionary-encoded or not."""
TEXT = "text"
"""``string`` or ``large_string``; dictionary-encoded or not."""
TIME = "text or a timestamp"
"""Text must be exactly ``TIME_FORMAT``, without a zone. A typed timestamp is taken as it is, to the microsecond:
one that is adjusted to UTC (every one with a zone, and INT96) becomes UTC's wall time, one without a zone its own."""

TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"
ISO_TIME = "a time of ISO 8601"
"""Of a user's own tables: a day, a time of day or none, a zone or none."""
MAX_PRICE = 99
"""Prices are quantile buckets, 0 to this (*challenge*)."""

OUT_OF_BOUNDS = f"{TIMESTAMP} is outside ingest.earliest and ingest.latest"
NO_SUCH_PRICE = f"{PRICE} is outside 0-{MAX_PRICE}"
NO_AMOUNT = f"{PRICE} is not an amount of 0 or more"
REPEATS_SKU = f"repeats another row of this {SKU}"
CONFLICTS_ON_SKU = f"conflicts with another row of this {SKU}"
MALFORMED = "the line is not as the format has it"
"""A line of CSV with more or fewer values than columns, or one that is no JSON."""
UNKNOWN_SKU = f"{SKU} is not in product_properties"


def is_null(column: str) -> str:
    """Reason of a row without a value that it needs."""
    return f"{column} is null"


def is_beyond_int64(column: str) -> str:
    """Reason of an unsigned id that no bigint holds."""
    return f"{column} is beyond int64"


def is_no_time(column: str, form: str = TIME_FORMAT) -> str:
    """Reason of a text that is not of the form or names no time, such as February 30, or by default one with a zone."""
    return f"{column} is not {form}"


def is_no_codes(column: str) -> str:
    """Reason of a query or product name of another form. Any white space and leading zeros are allowed."""
    return f"{column} is not {CODES_PER_QUERY} numbers 0-255 in brackets"


def is_no_integer(column: str) -> str:
    """Reason of a user's id that is to be a whole number and is not, or is beyond int64."""
    return f"{column} is not a whole number"


def is_no_utf8(column: str) -> str:
    """Reason of a user's id or text with bytes of another encoding."""
    return f"{column} is not UTF-8"


def has_no_words(column: str) -> str:
    """Reason of a user's text without any sign to hash."""
    return f"{column} holds no words"


def is_no_vector(column: str, size: int) -> str:
    """Reason of a user's vector of another size, or with a number that is null or not finite."""
    return f"{column} is not {size} finite numbers"


def events_contract(item_column: str, kind: ItemKind) -> tuple[tuple[str, str], ...]:
    """Each column of a behaviour's source, and what it must hold; one that holds nulls alone passes as any kind.

    Exact repeats of an event are no fault: they are kept and counted (ingest.drop_duplicates removes them).
    """
    return (CLIENT_ID, INTEGERS), (TIMESTAMP, TIME), (item_column, INTEGERS if kind is ItemKind.ID else TEXT)


PRODUCT_CONTRACT = ((SKU, INTEGERS), (CATEGORY, INTEGERS), (PRICE, INTEGERS), (NAME, TEXT))
"""Category, price and name may be null. Of the rows of one sku that keep these rules, the first by category, price
and name, nulls last, is kept; the others are rejected with ``REPEATS_SKU`` (equal to the one kept) or
``CONFLICTS_ON_SKU``."""


@dataclass(frozen=True)
class TableSchema:
    """What a table holds.

    Attributes
    ----------
    name : folder under ``OUT/tables``
    grain : what one row is
    ddl : the columns, in order, as Spark DDL; a comment of a column is kept with the table
    partition_by : partition columns, may be empty
    """

    name: str
    grain: str
    ddl: str
    partition_by: tuple[str, ...] = ()


def check_columns(table: TableSchema, found: Sequence[tuple[str, str]], expected: Sequence[tuple[str, str]]) -> None:
    """Raise TableError naming every missing, unexpected and wrongly typed column, or a wrong order.

    Parameters
    ----------
    found, expected : (name, type) pairs in column order
    """
    found_types, expected_types = dict(found), dict(expected)
    problems = [f"lacks column {name!r} ({kind})" for name, kind in expected if name not in found_types]
    problems += [f"has an unexpected column {name!r}" for name, _ in found if name not in expected_types]
    problems += [
        f"column {name!r} is {found_types[name]}, expected {kind}"
        for name, kind in expected
        if name in found_types and found_types[name] != kind
    ]
    # the order only where names and types agree: else it would only repeat these problems
    if not problems and list(found) != list(expected):
        problems = [f"has its columns in the order {[name for name, _ in found]}"]
    if problems:
        raise TableError(
            f"table {table.name!r} {'; '.join(problems)}; was it written by this version and configuration?"
        )


def events_table(behaviour: str, item_column: str, kind: ItemKind) -> TableSchema:
    """The typed events of one behaviour: one row per event.

    An item of kind ``CODES`` is kept as its canonical string ``[a b ...]``, single spaces, no leading zeros.
    """
    # timestamp_ntz: a timestamp would read as another wall time in a Spark session of another time zone
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
IDS = TableSchema(
    "ids",
    "one text that a user's tables have as an id; kind: client_id, sku, category or the column of a behaviour's items; "
    "ingest: the number of the one that met it first. Rows are added, and none is changed",
    "ingest bigint, kind string, key string, id bigint",
    ("ingest",),
)
WINDOWS = TableSchema(
    "windows",
    # the last window is closed: its end is the time of the last purchase, which is a target too
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
    "one item of one behaviour, or of one stream of merged behaviours, whose keys are `<item column> <item>`; "
    "token ids by falling n_events, then key",
    # key is text, whatever the item is: queries are, and all streams share the table
    "behaviour string, key string, token_id int, n_events bigint",
    ("behaviour",),
)
ITEM_ATTRIBUTES = TableSchema(
    "item_attributes",
    "one token of one stream (behaviour) of merged behaviours; item: its column; codes: 16, of a sku's name or of the "
    "query itself; category, price and codes are null where they are not known",
    "behaviour string, token_id int, item string, category bigint, price int, codes array<smallint>, n_events bigint",
    ("behaviour",),
)
SEQUENCES = TableSchema(
    "sequences",
    "one client of one stream (behaviour): its last token ids, oldest first; n_events counts before truncation, and "
    "before repeats are dropped; width >= length of token_ids is the batch width that the feed pads to, or so many "
    "chunks of it; event_types (1 + the position of the event's behaviour in the stream) and timestamps (seconds since "
    "1970) are aligned with token_ids, and null where no encoder of the stream reads them",
    "behaviour string, is_held_out boolean, width int, client_id bigint, token_ids array<int>, n_events bigint, "
    "event_types array<tinyint>, timestamps array<bigint>",
    # train picks files, not rows: an encoder's stream, for training or validation, and all rows of a batch's width
    ("behaviour", "is_held_out", "width"),
)
EDGES = TableSchema(
    "edges",
    "one edge of the graph of clients and skus; target_number: 2 x the sku's rank by falling edges, plus 0 where the "
    "client bought it, 1 where it was added; part: of the client, read by rank part modulo training.n_ranks",
    # EdgeModel takes a target apart: the item is target_number // 2, the relation the rest
    "part int, client_id bigint, target_number int",
    ("part",),
)
BLOCKS = TableSchema(
    "blocks",
    "one relevant client of one block, as it was before cutoff; vector is null where the client is not present: it has "
    "nothing there that a vector could be made of",
    # an array, not a column per number: blocks of all widths share the table
    "block string, cutoff timestamp_ntz, client_id bigint, is_present boolean, vector array<float>",
    ("block", "cutoff"),
)
BLOCK_COLUMNS = TableSchema(
    "block_columns",
    "one column of one block's vectors; made_from: what the block was made from",
    "block string, position int, column string, made_from string",
    ("block",),
)
PROFILES = TableSchema(
    "profiles",
    "one relevant client of one profile",
    "profile string COMMENT 'ensemble: encoders and activity; ensemble+NAME: with the blocks NAME beside them', "
    "position bigint COMMENT 'row of the client in the entry of this profile, from 0', "
    "client_id bigint COMMENT 'id of the client; where client_key has one, the integer that the table ids gives it', "
    "vector array<float> COMMENT 'the profile itself: as many numbers in the same order for each client of a profile', "
    "present array<string> COMMENT 'blocks that the client has; where one is missing, its numbers say nothing', "
    "client_key string COMMENT 'id of the client in its own tables where that is text, else null', "
    "models map<string, string> COMMENT 'encoder: digests of its weights and of its vocabulary; vectors of other ones "
    "do not compare'",
    ("profile",),
)
RECOMMENDATIONS = TableSchema(
    "recommendations",
    "one item that an encoder expects next of one client; position: from 1, by falling score; item: the user's own id, "
    "as text; score: the encoder's logit, which compares the items of one client; client_key: as in profiles; written "
    "by `ubp recommend`",
    "encoder string, client_id bigint, client_key string, position int, item string, score float",
    ("encoder",),
)
LABELS = TableSchema(
    "labels",
    "one label of one propensity task; label is its position in the label arrays; popularity: its share of the "
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
    "one entry's result on one task; novelty and diversity are null for churn and conversion, mean, std and "
    "repeats (of the score, over seeds and row orders) where n_repeats is 1",
    "entry string, task string, score double, auroc double, novelty double, diversity double, mean double, std double, "
    "n_repeats int, repeats array<double>",
)
