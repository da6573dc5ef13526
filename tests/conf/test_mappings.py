"""Mappings of a user's tables: what they may say, and how they are refused by name, all without Spark."""

from pathlib import Path

import pytest
import yaml

from conf.expressions import check_expression
from conf.load import MAPPINGS, known_configs, load_config, to_yaml
from schemas.errors import ConfigError

BUY = {"path": "buys.csv", "client_id": "user", "timestamp": "time", "item": "sku"}


def mapping(tmp_path: Path, **changes: object) -> str:
    """A file that maps purchases alone; a change is of that input, of the file where its value is a tuple."""
    own = {key: value for key, value in changes.items() if not isinstance(value, tuple)}
    whole = {key: value[0] for key, value in changes.items() if isinstance(value, tuple)}
    inputs = {"product_buy": {key: value for key, value in (BUY | own).items() if value is not None}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"inputs": inputs | whole.pop("inputs", {})} | whole))
    return str(path)


@pytest.mark.parametrize("name", known_configs(MAPPINGS))
def test_every_shipped_mapping_loads_and_comes_back_the_same_from_what_is_saved(name: str, tmp_path: Path) -> None:
    config = load_config("demo", inputs=name)
    assert config.mapping.name == name
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "saved.yaml")) == config


def test_a_mapping_leaves_out_behaviours_without_an_input_and_their_encoders(tmp_path: Path) -> None:
    config = load_config("demo", inputs=mapping(tmp_path))
    assert [*config.behaviours] == [*config.encoders] == ["product_buy"]


@pytest.mark.parametrize("inputs", ["retailrocket", "taobao"])
def test_a_table_made_of_codes_is_refused_where_no_input_has_any(inputs: str, tmp_path: Path) -> None:
    found = "product_buy, add_to_cart, page_visit" + (", product_properties" if inputs == "taobao" else "")
    message = (
        r"^encoders\.mixed\.table=semantic: expected queries or names of skus, whose codes the table is made of, found "
        rf"the items sku, url and the inputs {found} without a name; .* or set table=hashed$"
    )
    with pytest.raises(ConfigError, match=message):
        load_config("demo", ["encoders.mixed.table=semantic"], inputs)
    for named in ("rees46", "jdata", "ga4"):
        assert load_config("demo", ["encoders.mixed.table=semantic"], named).encoders["mixed"].table == "semantic"
    queries = BUY | {"item": {"column": "words", "as": "text"}}
    path = mapping(tmp_path, inputs=({"search_query": queries},))
    assert load_config("demo", ["encoders.mixed.table=semantic"], path).encoders["mixed"].table == "semantic"


def test_an_encoder_that_a_mapping_leaves_out_needs_no_codes(tmp_path: Path) -> None:
    assert "mixed" not in load_config("demo", ["encoders.mixed.table=semantic"], mapping(tmp_path)).encoders


def test_what_inputs_share_is_written_once_and_a_base_is_changed(tmp_path: Path) -> None:
    changed = {"base": "rees46", "timezone": "Europe/Warsaw", "inputs": {"product_buy": {"path": "bought.csv"}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed))
    inputs = load_config("demo", inputs=str(tmp_path / "mine.yaml")).mapping.inputs
    assert inputs["product_buy"].path == "bought.csv"
    assert inputs["add_to_cart"].path == inputs["product_properties"].path == "*.csv*"
    assert inputs["add_to_cart"].item == inputs["page_visit"].item
    assert inputs["product_properties"].client_id is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tabel": "x.y"}, r"unknown key 'inputs.product_buy.tabel', known here are \['table', 'path', "),
        ({"item": {"column": "sku", "az": "key"}}, r"unknown key 'inputs.product_buy.item.az', .*'column', .*'as'"),
        ({"item": {"column": "sku", "as": "number"}}, r"product_buy\.item\.as_?: expected 'integer', 'key'"),
        ({"item": {"column": "sku", "as": "text"}}, r"item\.as: expected integer, key, for .*kind is id; found text"),
        ({"item": {"column": "sku", "as": "amount"}}, r"item\.as: expected integer, key, codes, .*found amount"),
        ({"item": {"column": "sku", "unit": "s"}}, "item: unit and format are of times alone"),
        ({"item": {"as": "key"}}, "item: expected either column or expression, found none"),
        ({"item": {"column": "a", "expression": "b"}}, "item: expected either column or expression, found both"),
        ({"item": "user"}, "expected client_id and item of two columns, found one for both"),
        ({"item": None}, "expected the columns client_id, timestamp, item, of which .* found client_id, timestamp"),
        ({"sku": "sku"}, "expected the columns client_id, timestamp, item, of which .* found client_id, .*sku"),
        ({"path": None}, "product_buy: expected either table or path, found none"),
        ({"table": "shop.orders"}, "product_buy: expected either table or path, found both"),
        ({"path": None, "table": "orders; DROP"}, r"table: expected schema\.table or catalog\.schema\.table"),
        ({"path": "s3://shop/log"}, "expected a format .* for the URL s3://shop/log, found none"),
        ({"path": "log/**.csv"}, r"path: expected \* in the last part .* alone, and no \*\*, found 'log/\*\*\.csv'"),
        ({"path": "log/**/*.csv"}, r"found 'log/\*\*/\*\.csv'; name the folder, without \*: the files in all folders"),
        ({"path": "/data/*/a.csv"}, r"product_buy\.path: expected \* in the last part of a path alone"),
        ({"format": "xlsx"}, r"product_buy\.format: expected 'delta', 'parquet', 'csv' or 'json', found 'xlsx'"),
        ({"version": 3, "format": "csv"}, "version and as_of are of Delta tables, found csv"),
        ({"version": 3, "as_of": "2024-01-01"}, "expected version or as_of, found both"),
        ({"as_of": "June"}, "as_of: expected yyyy-MM-dd"),
        ({"delimiter": "||"}, r"delimiter: expected one character, no .*, found '\|\|'"),
        ({"delimiter": "\\"}, "delimiter: expected one character, no quote, backslash or line break"),
        ({"header": ["a", "b", "a"]}, "header: expected different names, found a twice"),
        ({"timestamp": {"column": "t", "unit": "min"}}, r"\.unit: expected 's', 'ms', 'us' or 'ns', found 'min'"),
        ({"timestamp": {"column": "t", "unit": "s", "format": "yyyy"}}, "expected unit or format, found both"),
        ({"timestamp": {"column": "t", "format": "HH:mm"}}, "expected a pattern with year, month and day"),
        ({"timestamp": {"column": "t", "format": "yyyy-mm-dd"}}, "expected a pattern with year, month and day"),
        ({"timestamp": {"column": "t", "format": "YYYY-MM-dd"}}, "expected a pattern such as .* found YYYY in"),
        # Spark knows these, to write times, not to read them
        ({"timestamp": {"column": "t", "format": "E, yyyy-MM-dd"}}, "expected a pattern such as .* found E in"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd OO"}}, "expected a pattern such as .* found OO in"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd hh:mm"}}, r"expected a \(AM, PM\) beside hours up to 12"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd HH:MM"}}, "each letter in one place, found M twice"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd'T'HH:mm:ss'Z'"}, "timezone": ("Europe/Warsaw",)},
         "found the Z of UTC as text in .*; write X"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd[ HH:mm[:ss] XXX]"}, "timezone": ("Europe/Warsaw",)},
         "expected a zone in all times or in none"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd HH:mm[ XXX]"}, "timezone": ("Europe/Warsaw",)},
         "expected a zone in all times or in none, found one that may be left out"),
        ({"timestamp": {"expression": "cast(a AS timestamp_ltz)"}, "timezone": ("Asia/Tokyo",)}, "as timestamp_ltz"),
        ({"timezone": ("localtime",)}, "timezone: expected a name such as Europe/Warsaw or UTC, found 'localtime'"),
        ({"timestamp": {"column": "t", "format": "yyyy-MM-dd 'at"}}, "expected a pattern .* found ', t in"),
        ({"timestamp": {"expression": "To_timestamp(t)"}, "timezone": ("Europe/Warsaw",)},
         r"timestamp\.expression: expected times of Europe/Warsaw, found to_timestamp, for which .*to_timestamp_ntz"),
        ({"timestamp": {"expression": "cast(a AS timestamp)"}, "timezone": ("Europe/Warsaw",)}, "found as timestamp"),
        ({"timezone": ("Europe/Varsovie",)}, "timezone: expected a name such as Europe/Warsaw or UTC, found 'Europe/V"),
        ({"inputs": ({"visits": BUY | {"where": "a = 1"}},)}, "expected product_properties and .* found 'visits'"),
        ({"inputs": ({"page_visit": BUY},)}, "found page_visit and product_buy both from 'sku' of the same"),
        ({"inputs": ({"page_visit": 3},)}, r"inputs\.page_visit: expected keys and values .* found 3"),
        ({"item": 5}, r"inputs\.product_buy\.item: expected the name of a column, in quotes .*found 5"),
        ({"header": True}, r"inputs\.product_buy\.header: expected the names of the columns in brackets, .*found True"),
        ({"zone": ("UTC",)}, r"unknown key 'zone', known here are \['name', 'inputs', 'timezone'\]"),
        ({"where": "event = 'view"}, r"where: expected an expression of Spark SQL, found \"'view\" in"),
        ({"where": "(a = 1"}, r"where: expected parentheses in pairs, found '\(a = 1'"),
        ({"where": "java_method('java.lang.System', 'exit', 1) = 1"}, "expected functions .*found 'java_method'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_mapping_is_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        load_config("demo", inputs=mapping(tmp_path, **changes))
    assert (
        "mine.yaml" in str(refusal.value) or "found 'visits'" in str(refusal.value) or ".kind is" in str(refusal.value)
    )


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hush-3f9a@shop/log",
        "s3://key:a/hush-3f9a@shop/log",
        "abfss://box@account.dfs.core.windows.net/log?sig=hush-3f9a",
        "s3://shop/log#hush-3f9a",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    path = mapping(tmp_path, path=url, format="csv")
    with pytest.raises(ConfigError, match=r"expected a URL without (a password in it|\? and #)") as refusal:
        load_config("demo", inputs=path)
    assert "hush-3f9a" not in str(refusal.value)


@pytest.mark.parametrize("path", ["log/*.csv", "log/day=*/", "s3://shop/*/day=1"])
def test_a_star_in_the_last_part_of_a_path_or_in_a_url_is_taken(tmp_path: Path, path: str) -> None:
    inputs = load_config("demo", inputs=mapping(tmp_path, path=path, format="csv")).mapping.inputs
    assert inputs["product_buy"].path == path


def test_the_account_of_a_store_is_no_password(tmp_path: Path) -> None:
    url = "abfss://box@account.dfs.core.windows.net/log/day=1"
    assert (
        load_config("demo", inputs=mapping(tmp_path, path=url, format="csv")).mapping.inputs["product_buy"].path == url
    )


def test_an_unknown_mapping_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'rees47'.*'ga4', 'jdata', 'rees46', 'retail"):
        load_config("demo", inputs="rees47")
    (tmp_path / "mine.yaml").write_text("inputs: [product_buy]\n")
    with pytest.raises(
        ConfigError, match=r"mine.yaml': inputs: expected names of behaviours, .* found \['product_buy'\]"
    ):
        load_config("demo", inputs=str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("timezone: UTC\n")
    with pytest.raises(ConfigError, match="expected inputs: and names of behaviours under it, found none"):
        load_config("demo", inputs=str(tmp_path / "mine.yaml"))


def test_purchases_and_what_judges_skus_must_be_there(tmp_path: Path) -> None:
    visits = {"inputs": {"page_visit": BUY}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(visits))
    with pytest.raises(ConfigError, match=r"inputs: expected product_buy, .*found page_visit"):
        load_config("demo", inputs=str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="unknown_sku=quarantine: expected product_properties among the inputs"):
        load_config("demo", ["ingest.unknown_sku=quarantine"], mapping(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "event = 'view'",
        "event IN ('view', 'open') AND (price IS NULL OR price > 0.5e2)",
        "`select` = \"it's\" and lower(trim(kind)) not in ('x')",
        "note = 'a -- b; select reflect(1)'",
        "case when (a) then cast(b as decimal(10, 2)) else 1 end > 0",
        "filter(params, p -> p.key = 'q')[0].value.string_value",
        "a = 'it''s \\' fine'",
    ],
)
def test_an_expression_over_the_columns_of_a_row_is_fine(text: str) -> None:
    check_expression("where", text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "empty"),
        ("a in (select b from c)", "'select'"),
        ("a in (SELECT b)", "'SELECT'"),
        ("a in (table t)", "'table'"),
        ("a in (values 1)", "'values'"),
        ("exists (a)", "'exists'"),
        ("reflect('a', 'b') = 1", "'reflect'"),
        ("`reflect`('a', 'b') = 1", "'`reflect`'"),
        ("Java_Method /* x */ ('a')", "/\\* x"),
        ("java_method\n\t('a', 'b')", "'java_method'"),
        ("mydb.lower(a) = 1", "'lower'"),
        ("rand() < 0.5", "'rand'"),
        ("ts > current_date", "'current_date'"),
        ("raise_error('x')", "'raise_error'"),
        ("sum(a) over (partition by b)", "'sum'"),
        ("a = 1; drop table b", "'; drop"),
        ("a = 1 -- b", "'-- b'"),
        ("a = r'\\' or reflect('x', 'y') = '", "r'"),  # Spark takes the backslash of a raw text for itself
        ("a = :b", "':b'"),
        ("a = \u00e9", "'\u00e9'"),
        ("a]", "a\\]"),
    ],
)
def test_what_is_more_than_an_expression_is_refused(text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=f"where: expected .*{found}"):
        check_expression("where", text)
