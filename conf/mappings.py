"""Settings of a mapping: where a user's tables are, and which of their columns are what (``--inputs``)."""

import re
import zoneinfo
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

from conf.expressions import check_expression, utc_words
from conf.inputs import is_time
from conf.ranges import NonNegativeInt, PositiveInt, Settings, require
from schemas.behaviours import PRODUCT_BUY
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, SKU, TIMESTAMP
from schemas.tables import PRODUCT_PROPERTIES

ITEM = "item"
LATEST_BY = "latest_by"
PRODUCTS = PRODUCT_PROPERTIES.name
EVENT_COLUMNS = (CLIENT_ID, TIMESTAMP, ITEM)
PRODUCT_COLUMNS = (SKU, CATEGORY, PRICE, NAME)
COLUMNS = (*EVENT_COLUMNS, *PRODUCT_COLUMNS, LATEST_BY)
"""Keys of an input whose value is a column: its name, or settings of it."""

IDS, CODES = ("integer", "key"), ("codes", "text", "vector")
FORMS = {
    CLIENT_ID: IDS,
    SKU: IDS,
    CATEGORY: IDS,
    ITEM: (*IDS, *CODES),
    PRICE: ("bucket", "amount"),
    NAME: CODES,
}
"""Column -> what its values may be taken ``as``."""

# letter of a pattern -> how often it may stand in a row (Spark's datetime patterns, as far as they are for parsing)
_PATTERN_LETTERS = {"G": 4, "y": 6, "M": 4, "L": 4, "d": 2, "D": 3, "a": 1, "H": 2, "h": 2, "K": 2, "k": 2}
_PATTERN_LETTERS |= {"m": 2, "s": 2, "S": 9, "V": 2, "z": 4, "O": 4, "X": 5, "x": 5, "Z": 5}
_LENGTHS = {"V": (2,), "O": (1, 4)}
"""Letters of which no other number may stand in a row."""
_NOT_IN_JAVA = {"Factory", "ROC", "localtime"}
"""Names that Python knows as zones and Spark's Java does not."""
_ZONES = re.compile(r"[VzOXxZ]")


def has_password(url: str) -> bool:
    """Whether a URL names a password: USER:PASSWORD@, in which there may be slashes."""
    return re.match(r"[^/]*//.*:.*@", url, re.DOTALL) is not None


def without_secrets(url: str) -> str:
    """A URL as messages show it: without a user's name and password, and what follows a ? or #, a signature perhaps."""
    shown = re.sub(r"(?<=//).*@", "...@", re.split(r"[?#]", url, maxsplit=1)[0], flags=re.DOTALL)
    return repr(shown) + (", and more after a ? or #" if {"?", "#"} & {*url} else "")


@dataclass(frozen=True)
class ColumnSettings(Settings):
    """A column of an input, and what its values are."""

    column: str | None = None
    """Its name; ``a.b`` for the field b of a, where no column has this very name."""
    expression: str | None = None
    """Or an expression of Spark SQL over the columns of the row."""
    as_: Literal["integer", "key", "codes", "text", "vector", "bucket", "amount"] | None = None
    """``integer``: an id as it is; ``key``: any text, which ``tables/ids`` gives an integer; ``codes``: 16 numbers in
    brackets; ``text``: words; ``vector``: an array of ``size`` numbers; ``bucket``: 0-99; ``amount``: a price. None: as
    the type of the column says."""
    size: PositiveInt | None = None
    """Numbers of a ``vector``."""
    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Of a time that is a number since 1970."""
    format: str | None = None
    """Of a time that is text, as Spark's datetime patterns have it. None: ISO 8601."""

    @property
    def text(self) -> str:
        """How messages name the column."""
        return self.column or self.expression or ""

    @property
    def has_zone(self) -> bool:
        """Whether the format names a zone."""
        return _ZONES.search(_unquoted(self.format or "")) is not None

    # not in __post_init__, which knows neither the column's role nor the input that messages name
    def check(self, owner: str, name: str) -> None:
        """Raise ConfigError where the settings do not go together for what the column is to be."""
        one = (self.column is None) != (self.expression is None)
        require(one, f"{owner}: expected either column or expression, found {'none' if not self.text else 'both'}")
        if self.expression is not None:
            check_expression(f"{owner}.expression", self.expression)
        require(self.column != "", f"{owner}.column: expected a name, found an empty one")
        forms, is_of_time = FORMS.get(name, ()), name in (TIMESTAMP, LATEST_BY)
        require(
            self.as_ is None or self.as_ in forms,
            f"{owner}.as: expected {', '.join(forms) or 'none, of a time'}, found {self.as_}",
        )
        is_sized = (self.as_ == "vector") == (self.size is not None)
        require(is_sized, f"{owner}: expected as: vector and size together, found one of them")
        require(is_of_time or (self.unit, self.format) == (None, None), f"{owner}: unit and format are of times alone")
        require(not (self.unit and self.format), f"{owner}: expected unit or format, found both")
        if self.format is not None:
            _check_pattern(f"{owner}.format", self.format)


@dataclass(frozen=True)
class InputSettings(Settings):
    """The rows of one behaviour, or of the products: where they are, which of them, which columns."""

    table: str | None = None
    """Name in a catalog: ``schema.table`` or ``catalog.schema.table``."""
    path: str | None = None
    """Or a file, a folder of files (of Hive partitions too), a Delta table, or files by a name with ``*``; under
    ``--data``, unless it is absolute or a URL."""
    format: Literal["delta", "parquet", "csv", "json"] | None = None
    """``json`` is an object a line. None: what the files are called; a URL needs it."""
    version: NonNegativeInt | None = None
    """Of a Delta table; None: the newest."""
    as_of: str | None = None
    """Of a Delta table: its version at this time, ``yyyy-MM-dd`` or ``yyyy-MM-dd HH:mm:ss``, UTC."""
    header: tuple[str, ...] = ()
    """Names of the columns of CSV files that have no first line of names."""
    delimiter: str = ","
    """Of CSV files."""
    where: str | None = None
    """Condition on the columns of a row; the others are not this input's. Spark SQL."""
    expand: str | None = None
    """An array column: a row for each of its elements, which the column then stands for."""
    client_id: ColumnSettings | None = None
    timestamp: ColumnSettings | None = None
    item: ColumnSettings | None = None
    """``client_id``, ``timestamp``, ``item``: of events."""
    sku: ColumnSettings | None = None
    category: ColumnSettings | None = None
    price: ColumnSettings | None = None
    name: ColumnSettings | None = None
    """``sku``, ``category``, ``price``, ``name``: of products; all but the first may be left out."""
    latest_by: ColumnSettings | None = None
    """Of products: a time; of several rows of a sku the latest is the product."""

    @property
    def columns(self) -> dict[str, ColumnSettings]:
        """What a column is to be -> the column, of those that are given."""
        found = {name: getattr(self, name) for name in COLUMNS}
        return {name: column for name, column in found.items() if column is not None}

    def reads(self, column: str) -> bool:
        """Whether the input reads a column of its table; of expressions, as far as their words tell."""
        return column == self.expand or _is_named(column, self.columns.values(), self.where)

    def has_id(self, column: str) -> bool:
        """Whether a column of its table is read as an id, or may be: an item can be codes too."""
        roles = (CLIENT_ID, SKU, CATEGORY, ITEM)
        return _is_named(column, [each for role, each in self.columns.items() if role in roles])

    @property
    def location(self) -> str:
        """How messages name the table or path."""
        return self.table or self.path or ""

    @property
    def rows(self) -> tuple[object, ...]:
        """What says which rows it has."""
        return self.location, self.format, self.version, self.as_of, self.where, self.expand

    def check(self, owner: str, is_products: bool) -> None:
        """Raise ConfigError where the settings do not go together."""
        self._check_location(owner)
        if self.where is not None:
            check_expression(f"{owner}.where", self.where)
        known = (*PRODUCT_COLUMNS, LATEST_BY) if is_products else EVENT_COLUMNS
        needed = (SKU,) if is_products else EVENT_COLUMNS
        require(
            set(needed) <= self.columns.keys() <= set(known),
            f"{owner}: expected the columns {', '.join(known)}, of which {', '.join(needed)} must be there; found "
            f"{', '.join(self.columns) or 'none'}",
        )
        for name, column in self.columns.items():
            column.check(f"{owner}.{name}", name)
        # the same column, whatever it is taken as
        same = self.client_id and self.item and replace(self.client_id, as_=None) == replace(self.item, as_=None)
        require(not same, f"{owner}: expected client_id and item of two columns, found one for both")

    def _check_location(self, owner: str) -> None:
        one = (self.table is None) != (self.path is None)
        require(one, f"{owner}: expected either table or path, found {'both' if self.table else 'none'}")
        word = r"\w[\w-]*"
        require(
            self.table is None or re.fullmatch(rf"({word}\.){{1,2}}{word}", self.table, re.ASCII) is not None,
            f"{owner}.table: expected schema.table or catalog.schema.table of letters, digits, _ and -, found "
            f"{self.table!r}",
        )
        require(self.path != "", f"{owner}.path: expected a path, found an empty one")
        # not the path itself: the message would show the password
        require(
            not has_password(self.path or ""),
            f"{owner}.path: expected a URL without a password in it; give it to Spark",
        )
        # a URL's stars are Spark's
        folder, _, name = (self.path or "").rstrip("/").rpartition("/")
        require(
            self.is_url or ("*" not in folder and "**" not in name),
            f"{owner}.path: expected * in the last part of a path alone, and no **, found {self.path!r}; name the "
            "folder, without *: the files in all folders below it are read too",
        )
        has_query = self.is_url and not {"?", "#"}.isdisjoint(str(self.path))
        require(
            not has_query,
            f"{owner}.path: expected a URL without ? and #, for what follows may be a secret, which logs would show; "
            "leave it out, and give credentials to Spark",
        )
        require(
            not self.is_url or self.format is not None,
            f"{owner}: expected a format (delta, parquet, csv, json) for the URL {self.path}, found none",
        )
        require(not (self.table and self.format), f"{owner}: format goes with path; a table has one of its own")
        # without a format the names of the files tell, which are looked at later (check_mapping in jobs/inputs)
        is_csv = not self.table and self.format in (None, "csv")
        require(
            is_csv or (not self.header and self.delimiter == ","), f"{owner}: header and delimiter are of CSV alone"
        )
        is_versioned = self.version is not None or self.as_of is not None
        may_be_delta = self.table is not None or self.format in (None, "delta")
        require(
            not is_versioned or may_be_delta, f"{owner}: version and as_of are of Delta tables, found {self.format}"
        )
        require(self.version is None or self.as_of is None, f"{owner}: expected version or as_of, found both")
        require(self.as_of is None or is_time(self.as_of), f"{owner}.as_of: expected yyyy-MM-dd or yyyy-MM-dd HH:mm:ss")
        is_sign = len(self.delimiter) == 1 and self.delimiter not in '"\\\r\n'
        wanted = "one character, no quote, backslash or line break"
        require(is_sign, f"{owner}.delimiter: expected {wanted}, found {self.delimiter!r}")
        twice = sorted(name for name, n_times in Counter(self.header).items() if n_times > 1)
        require(not twice, f"{owner}.header: expected different names, found {', '.join(twice)} twice")

    @property
    def is_url(self) -> bool:
        """Whether the path is of a store that no mount reaches."""
        return re.match(r"(?!file:|dbfs:)[a-z][a-z0-9+.-]*:/", self.path or "") is not None


def _is_named(name: str, columns: Collection[ColumnSettings], condition: str | None = None) -> bool:
    if any(name in (each.column, (each.column or "").split(".")[0]) for each in columns):
        return True
    # a star alone stands for all columns
    word = re.compile(rf"(?<!\w){re.escape(name.replace('`', '``'))}(?!\w)|[(,]\s*\*\s*[,)]", re.IGNORECASE)
    return any(word.search(text or "") for text in (condition, *(each.expression for each in columns)))


@dataclass(frozen=True)
class MappingSettings(Settings):
    """What ingest reads instead of a challenge directory; without inputs, it reads that."""

    name: str | None = None
    """Of the mapping's file, without its folder and suffix."""
    inputs: dict[str, InputSettings] = field(default_factory=dict)
    """Behaviour -> its events; ``product_properties`` -> the products, which may be left out."""
    timezone: str = "UTC"
    """Of times that name no zone."""

    @property
    def behaviours(self) -> list[str]:
        """Those that have an input."""
        return [name for name in self.inputs if name != PRODUCTS]

    def __post_init__(self) -> None:
        if not self.inputs:
            return
        zones = zoneinfo.available_timezones()
        # a system without a database of zones leaves the check to Spark
        is_zone = (not zones or self.timezone in zones) and self.timezone not in _NOT_IN_JAVA
        require(is_zone, f"timezone: expected a name such as Europe/Warsaw or UTC, found {self.timezone!r}")
        require(
            PRODUCT_BUY in self.inputs,
            f"inputs: expected {PRODUCT_BUY}, whose last event dates the windows; found {', '.join(self.inputs)}",
        )
        for name, settings in self.inputs.items():
            settings.check(f"inputs.{name}", name == PRODUCTS)
            self._check_expressions_of_times(name, settings)
        found: dict[object, str] = {}
        for name in self.behaviours:
            settings, item = self.inputs[name], self.inputs[name].columns[ITEM].text
            first = found.setdefault((settings.rows, item), name)
            require(
                first == name,
                f"inputs: expected each behaviour to have events of its own, found {first} and {name} both from "
                f"{item!r} of the same rows of {settings.location}; tell them apart by where",
            )

    # here and not in ``InputSettings.check``: the zone is the mapping's
    def _check_expressions_of_times(self, name: str, settings: InputSettings) -> None:
        for role in {TIMESTAMP, LATEST_BY} & settings.columns.keys():
            of_utc = utc_words(settings.columns[role].expression or "")
            require(
                self.timezone == "UTC" or not of_utc,
                f"inputs.{name}.{role}.expression: expected times of {self.timezone}, found {', '.join(of_utc)}, for "
                "which text is UTC's; write to_timestamp_ntz, or timestamp_seconds of a number",
            )
            pattern = settings.columns[role].format or ""
            require(
                self.timezone == "UTC" or not re.search(r"'[^']*Z'", pattern),
                f"inputs.{name}.{role}.format: expected times of {self.timezone}, found the Z of UTC as text in "
                f"{pattern!r}; write X, which reads Z and +02:00 as zones",
            )
            always, n_sections = _unquoted(pattern), 1
            while n_sections:  # they may lie in one another
                always, n_sections = re.subn(r"\[[^\[\]]*\]", "", always)
            require(
                self.timezone == "UTC" or bool(_ZONES.search(always)) == settings.columns[role].has_zone,
                f"inputs.{name}.{role}.format: expected a zone in all times or in none, found one that may be left out "
                f"in {pattern!r}; read each kind by an input of its own, told apart by where",
            )


def _unquoted(pattern: str) -> str:
    """A datetime pattern without its quoted text."""
    return re.sub(r"'[^']*'", "", pattern)


def _check_pattern(owner: str, pattern: str) -> None:
    """Raise ConfigError unless Spark takes a datetime pattern, and the pattern tells a day."""
    letters = _unquoted(pattern)
    # a quotation mark is left where it has no partner; Java's patterns reserve the other signs
    runs = [found[0] for found in re.finditer(r"([A-Za-z])\1*|['{}#]", letters)]
    wrong = [
        run
        for run in runs
        if len(run) > _PATTERN_LETTERS.get(run[0], 0) or (run[0] in _LENGTHS and len(run) not in _LENGTHS[run[0]])
    ]
    require(
        not wrong, f"{owner}: expected a pattern such as dd.MM.yyyy HH:mm:ss, found {', '.join(wrong)} in {pattern!r}"
    )
    twice = sorted(letter for letter, n_runs in Counter(run[0] for run in runs).items() if n_runs > 1)
    require(not twice, f"{owner}: expected each letter in one place, found {', '.join(twice)} twice in {pattern!r}")
    require(
        "a" in letters or not {"h", "K"} & set(letters),
        f"{owner}: expected a (AM, PM) beside hours up to 12, found {pattern!r}; write HH for hours up to 23",
    )
    # L is the month by itself, as M is in a date; D is the day of the year, which needs no month
    lacking = [letter for letter in ("y", "M", "d") if letter not in letters.replace("L", "M")]
    has_day = not lacking or ("D" in letters and "y" in letters)
    require(has_day, f"{owner}: expected a pattern with year, month and day (yyyy, MM, dd), found {pattern!r}")
