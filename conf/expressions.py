"""What SQL expressions of a user may hold: checked by their words, before Spark starts; Spark parses them later."""

import itertools
import re

from conf.ranges import require
from schemas.errors import ConfigError

# what is allowed, not what is forbidden: a mapping may be somebody else's, and Spark has functions that call Java or
# give another value in each run; platforms and users add more
FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        abs array array_contains array_distinct array_join array_max array_min array_position bigint bround cast ceil
        ceiling char_length coalesce concat concat_ws contains date date_add date_format date_sub date_trunc day
        dayofmonth decimal div double element_at endswith exp filter flatten float floor forall from_unixtime get
        get_json_object greatest hash hex hour if ifnull initcap instr int isnan isnotnull isnull lcase least left
        length levenshtein like ln locate log lower lpad ltrim make_date map_keys map_values md5 minute mod month
        nanvl nullif nvl nvl2 octet_length parse_url pmod position pow power regexp regexp_extract regexp_like
        regexp_replace repeat replace reverse right rlike round rpad rtrim second sha2 size smallint split
        split_part sqrt startswith string struct substr substring substring_index timestamp_micros timestamp_millis
        timestamp_seconds tinyint to_date to_timestamp to_timestamp_ntz transform translate trim trunc try_cast
        try_to_number try_to_timestamp ucase unhex unix_micros unix_millis unix_seconds upper url_decode weekday
        xxhash64 year
        """,
    )
)
"""Spark's functions that give the same value for the same row each time, and do nothing else."""

# words of SQL that may stand before a parenthesis; the last three are types of a cast
_BEFORE_PARENTHESES = frozenset(re.findall(r"\w+", "and or not in between when then else case as varchar char dec"))
# what begins a query or a window, and what has another value in each run
_FORBIDDEN = frozenset(
    re.findall(r"\w+", "select from table values with over lateral exists current_date current_timestamp")
)
_COMPUTED_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
        current_catalog current_database current_date current_schema current_time current_timestamp current_user
        grouping__id localtimestamp session_user user
        """,
    )
)
"""What Spark takes for functions without parentheses where no column has the name, in backquotes too."""
# these take a text without a zone for one of the session's, which is UTC (jobs/runtime/session.py)
_OF_UTC = ("to_timestamp", "try_to_timestamp", "from_unixtime")
_INSTANTS = ("timestamp", "timestamp_ltz")
_TOKENS = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<quoted>`(?:[^`]|``)*`)|(?P<word>[A-Za-z0-9_]+)|(?P<space>\s+)"""
    r"""|(?P<sign>->|[-+*/%=<>!|&^~.,()\[\]])""",
    re.ASCII | re.DOTALL,
)
_PAIRS = {")": "(", "]": "["}


def check_expression(owner: str, text: str) -> None:
    """Raise ConfigError unless a text may be taken for an expression over the columns of one row.

    It may hold neither queries nor comments nor any function but ``FUNCTIONS``.

    Parameters
    ----------
    owner : whose expression it is, as the message names it
    """
    tokens = [(kind, token) for kind, token in _split(owner, text) if kind != "space"]
    require(bool(tokens), f"{owner}: expected an expression such as event = 'view', found an empty text")
    _check_parentheses(owner, text, [token for kind, token in tokens if kind == "sign"])
    before = ["", *(token for _, token in tokens)]
    after = [*before[2:], ""]
    # not strict: before has one more, the last token, which comes before none
    for (kind, token), previous, following in zip(tokens, before, after, strict=False):
        if kind not in ("word", "quoted"):
            continue
        name = token.strip("`").lower()
        require(
            kind == "quoted" or name not in _FORBIDDEN,
            f"{owner}: expected an expression over the columns of one row, found {token!r} in {text!r}; a column of "
            "this name is written in backquotes, and a query is none",
        )
        # ``a.b(`` would call a function b of a catalog, whatever it is named
        # in backquotes a word of SQL would be the name of a function
        is_known = name in FUNCTIONS or (kind == "word" and name in _BEFORE_PARENTHESES)
        require(
            following != "(" or (is_known and previous != "."),
            f"{owner}: expected functions that do nothing but compute, of {', '.join(sorted(FUNCTIONS))}; found "
            f"{token!r} in {text!r}; compute the column before, in a view",
        )


def computed_names(text: str) -> list[str]:
    """The names in an expression that Spark takes for functions where they are no columns, such as ``user``.

    Parameters
    ----------
    text : that ``check_expression`` has passed
    """
    tokens = [(kind, token) for kind, token in _split("", text) if kind != "space"]
    names = [token.strip("`") if kind in ("word", "quoted") else "" for kind, token in tokens]
    before = ["", *(token for _, token in tokens)]  # a field of a column is none of them
    return [name for name, sign in zip(names, before, strict=False) if name.lower() in _COMPUTED_NAMES and sign != "."]


def utc_words(text: str) -> list[str]:
    """The words in an expression that read or write times as UTC's, whatever the zone of a mapping is.

    Parameters
    ----------
    text : that ``check_expression`` has passed
    """
    tokens = [token.lower() for kind, token in _split("", text) if kind != "space"]
    pairs = [*itertools.pairwise(tokens)]
    functions = [word for word, sign in pairs if word in _OF_UTC and sign == "("]
    return functions + [f"{word} {kind}" for word, kind in pairs if word == "as" and kind in _INSTANTS]


def _split(owner: str, text: str) -> list[tuple[str, str]]:
    """Kind and text of each token; a token ends where Spark's own parser ends it."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        found = _TOKENS.match(text, position)
        is_comment = text.startswith(("--", "/*"), position)
        # in r'...' a backslash is none: what follows would be read otherwise here and by Spark
        is_raw = found is not None and found[0].lower() == "r" and text[found.end() : found.end() + 1] in ("'", '"')
        if found is None or is_comment or is_raw:
            raise ConfigError(
                f"{owner}: expected an expression of Spark SQL, found {text[position : position + 20]!r} in {text!r}; "
                "correct it"
            )
        tokens.append((str(found.lastgroup), found[0]))
        position = found.end()
    return tokens


def _check_parentheses(owner: str, text: str, signs: list[str]) -> None:
    opened: list[str] = []
    for sign in signs:
        if sign in _PAIRS.values():
            opened.append(sign)
        elif sign in _PAIRS:
            matches = bool(opened) and opened.pop() == _PAIRS[sign]
            require(matches, f"{owner}: expected parentheses in pairs, found {text!r}; correct it")
    require(not opened, f"{owner}: expected parentheses in pairs, found {text!r}; correct it")
