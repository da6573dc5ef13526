"""What a configuration may say, and how it is refused."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from conf.evaluation import ProbeSettings
from conf.load import FOLDER, checked, load_config, to_yaml
from conf.pipeline import PipelineConfig
from conf.synthetic import ShopSettings
from schemas.errors import ConfigError


def test_a_file_changes_its_base_and_set_changes_both() -> None:
    config = load_config("demo", ["training.epochs=3", "behaviours.page_visit.min_count=9"])
    assert config.training.epochs == 3
    assert config.behaviours["page_visit"].min_count == 9
    assert config.behaviours["page_visit"].item == "url"
    assert config.probe.of_a_score() != ProbeSettings().of_a_score()


def test_a_base_lies_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    for folder, seed in ((tmp_path, 1), (tmp_path / "own", 2)):
        (folder / "mine.yaml").write_text(f"base: demo\nseed: {seed}\n")
    (tmp_path / "own" / "more.yaml").write_text("base: mine.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("own/more.yaml").seed == 2


def test_a_setting_of_a_mapping_that_inputs_replaces_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--set mapping\.timezone=Europe/Warsaw: expected no part of a mapping beside"
    ):
        load_config("demo", ["mapping.timezone=Europe/Warsaw"], inputs="rees46")


def test_settings_of_profiles_that_could_not_be_composed_are_refused_before_anything_runs() -> None:
    unequal = ["ensemble.composition=mean", "encoders.page_visit.hidden_size=32"]
    with pytest.raises(ConfigError, match=r"composition=mean: expected encoders of one hidden_size, found \[32, 64\]"):
        load_config("demo", unequal)
    assert load_config("demo", [*unequal, "encoders.page_visit=null"]).ensemble.composition == "mean"
    graph = ["ensemble.blocks=[graph]", "graph.item_encoder=search_query"]
    with pytest.raises(ConfigError, match=r"item_encoder: expected an encoder that reads skus, .* found search_query"):
        load_config("demo", graph)
    assert load_config("demo", [graph[1]]).graph.item_encoder == "search_query", "nothing makes the block"
    with pytest.raises(ConfigError, match=r"reduction=dense expected max_columns, .* found none"):
        load_config("demo", ["ensemble.stacking.counters.reduction=dense"])


@pytest.mark.parametrize("text", ["1e3", "'1'", "yes", "null", "é: #", ".5", ""])
def test_a_text_that_looks_like_something_else_is_saved_as_a_text(text: str, tmp_path: Path) -> None:
    entry = text.replace("'", "''")
    config = load_config("demo", [f"probe.entries=['{entry}']"])
    assert config.probe.entries == (text,)
    (tmp_path / "saved.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "saved.yaml")) == config


@pytest.mark.parametrize("end", ["2022-09-28", "2022-09-28 10:00:00"])
def test_the_end_of_the_windows_is_a_time(end: str, tmp_path: Path) -> None:
    config = load_config("demo", [f"windows.end={end}"])
    assert config.windows.end == end
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "saved.yaml")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "behaviours.page_visit.max_sequence_length=9",
            r"max_sequence_length is now encoders\.page_visit: \{behaviours: \[page_visit\], max_length: 9\}",
        ),
        ("inference.append_activity=true", r"inference\.append_activity is now ensemble\.activity"),
    ],
)
def test_the_form_of_earlier_versions_is_refused_with_the_new_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", [override])


def test_a_further_behaviour_is_a_further_entry() -> None:
    config = load_config("report", ["behaviours.wish_list.item=sku"])
    assert [*config.behaviours][-1] == "wish_list"
    assert config.events_table("wish_list").ddl == "client_id bigint, timestamp timestamp_ntz, sku bigint"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"unknown key 'training.epoch', known here are \[.*'epochs'"),
        ("nonsense=1", r"unknown key 'nonsense', known here are \[.*'training'"),
        ("behaviours.page_visit.itm=url", r"unknown key 'behaviours.page_visit.itm', known here are \['item'"),
        ("training.epochs=many", "training.epochs: expected a whole number, found 'many'"),
        ("training.epochs=true", "training.epochs: expected a number, found True"),
        ("graph.bias=false", "graph.bias: expected a number, found False"),
        ("training.n_ranks=many", "training.n_ranks: expected a whole number or 'auto', found 'many'"),
        ("training.compile=maybe", "training.compile: expected true or false or 'auto', found 'maybe'"),
        ("training.epochs=0", "training.epochs: expected more than 0, found 0"),
        ("masking.mask_prob=2", "masking.mask_prob: expected 1.0 or less, found 2"),
        ("behaviours.page_visit.kind=word", "behaviours.page_visit.kind: .*'id' or 'codes'"),
        ("model.n_heads=7", r"hidden_size \(64\) must be divisible by n_heads \(7\)"),
        ("encoders.page_visit.max_length=999", r"encoders\.page_visit\.max_length \(999\) exceeds the widest"),
        ("encoders.page_visit.max_len=9", r"unknown key 'encoders.page_visit.max_len', known here are \['hidden_size'"),
        ("encoders.page_visit.training.n_ranks=3", "found n_ranks, which all encoders of a run share"),
        (
            "encoders.visits={behaviours: [page_view]}",
            r"expected names of behaviours, product_buy, .*found \['page_view'\]",
        ),
        ("encoders.visits={behaviours: []}", "an encoder's behaviours are empty"),
        (
            "encoders.visits={behaviours: [page_visit], objective: next_event}",
            r"encoders\.visits\.next_event\.item: expected a behaviour whose item is sku, found the items url; set it",
        ),
        (
            "encoders.carts={behaviours: [add_to_cart], objective: next_event}",
            r"encoders\.carts\.next_event\.url: expected a behaviour whose item is url, found the items sku; set it",
        ),
        ("next_event={type: false, time: false, url: false, item: false}", "next_event: expected one head or more"),
        ("encoders.visits=3", r"encoders\.visits: expected keys and values such as behaviours: \[visits\], found 3"),
        ("ensemble.max_width=2049", "ensemble.max_width: expected 2048 or less, found 2049"),
        ("sequences.widths=[8,4]", "widths must start with 1 and rise"),
        ("ingest.earliest=June", "ingest.earliest must be yyyy-MM-dd or yyyy-MM-dd HH:mm:ss; found 'June'"),
        ("ingest.latest=2022-02-30", "ingest.latest must be"),
        ("ingest.max_quarantined_share=1.1", "ingest.max_quarantined_share: expected 1.0 or less, found 1.1"),
        ("ingest.latest=2000-01-01", "earliest .* must come before"),
        ("windows.end=June", "windows.end must be yyyy-MM-dd or yyyy-MM-dd HH:mm:ss; found 'June'"),
        ("ingest.unknown_sku=drop", "ingest.unknown_sku: .*'keep' or 'quarantine'"),
        ("seed=-1", "seed: expected 0 or more, found -1"),
        ("spark.driver_memory=2gib", "spark.driver_memory: expected a whole number and k, m, g or t, .* found '2gib'"),
        ("behaviours.page_visit.item=url` bigint; DROP TABLE x", "item must be a column's name"),
        ("behaviours.my-visits={item: url}", "behaviours: a name has letters, digits, _; found 'my-visits'"),
        ("behaviours.baseline={item: url}", "behaviours: 'baseline' is the name of a table, a block or a profile of"),
        ("behaviours.All={item: url}", "behaviours: 'All' is the name of .* or of all behaviours; rename it"),
        ("behaviours.Windows={item: url}", "behaviours: 'Windows' is the name of a table, a block or a profile of"),
        ("behaviours.Page_Visit={item: url}", "behaviours: page_visit and Page_Visit differ by case alone"),
        ("behaviours.wish={item: Timestamp}", "item must be another column than client_id, timestamp, .*'Timestamp'"),
        ("encoders.Ensemble={behaviours: [page_visit]}", "encoders: 'Ensemble' is the name of a table, a block or a"),
        ("encoders.Page_Visit={behaviours: [page_visit]}", "encoders: page_visit and Page_Visit differ by case alone"),
        ("ensemble.blocks=[Page_visit=/x]", "block 'Page_visit': another block or profile of the run has this name"),
        ("ensemble.stacking.clip.weight=2", "ensemble.stacking: expected names of blocks, .* found clip"),
        (
            "ensemble.stacking.baseline.pca=2",
            "unknown key 'ensemble.stacking.baseline.pca', known here are .*max_columns",
        ),
        ("training.epochs", "--set expects key=value"),
        ("sequences.widths.0=2", "--set sequences.widths.0=2: Cannot merge"),
        ("model=[]", r"--set model=\[\]: Cannot merge"),
        ("seed=${nope}", "seed: Interpolation key 'nope' not found"),
        ("seed=${seed}", "seed: Recursive interpolation"),
        ("seed=${oc.env:HOME}", "seed: expected a value or a reference to another setting"),
        ("ensemble.blocks=['a=${oc.env:HOME}']", r"ensemble\.blocks\.0: expected a value or a reference"),
        ("seed=${training.epochs}0", "seed: expected a value or a reference to another setting"),
        ("seed=${training}", r"seed: expected a reference to one value, found \$\{training\}"),
        ("training.epochs=${..sequences.widths}", "training.epochs: expected a reference to one value"),
        ("sequences.widths=[1, '${..widths}']", "sequences.widths.1: expected a reference to one value"),
        ("seed=${", "--set seed=.* is not YAML"),
        ("seed=[1", r"--set seed=\[1 is not YAML"),
        ("seed=@x", "--set seed=@x is not YAML"),
        ("seed=*a", r"--set seed=\*a: expected values, found a YAML alias"),
        ("seed=???", "seed: expected a value, found "),
        # what YAML 1.1 would take for 12 and 90
        ("windows.target_days=014", "expected a number as it is read, found 014, which YAML takes for another"),
        ("training.epochs=1:30", "expected a number as it is read, found 1:30"),
        ("sequences.widths=[1, 08]", "expected a number as it is read, found 08"),
        ("sequences.widths={0: 1}", "--set sequences.widths={0: 1}: Cannot merge"),
        ("behaviours=3", "behaviours: expected keys and values, found 3"),
        ("mapping=3", "mapping: expected inputs: and names of behaviours under it, found 3"),
        ("mapping=abc", "mapping: expected inputs: and names of behaviours under it, found 'abc'"),
        ("mapping=[1]", r"mapping: expected inputs: and names of behaviours under it, found \[1\]"),
        (f"seed={2**63}", f"seed: expected {2**63 - 1} or less, found {2**63}"),
        pytest.param("seed=0x" + "f" * 20_000, "or less, found a number of 80,000 bits", id="a_seed_of_20,000_digits"),
        ("windows.target_days=1000000", r"windows\.target_days: expected 3650 or less, found 1000000"),
        ("interactions.windows_before=[101]", r"interactions\.windows_before\.0: expected 100 or less, found 101"),
        ("behaviours.wish={item: Reason}", "item must be another column than client_id, .*'Reason'"),
        ("encoders={}", r"--set encoders=\{\}: encoders: expected keys and values, found \{\}, which leaves .*'mixed'"),
        ("ensemble={stacking: {}}", r"ensemble\.stacking: expected keys and values, found \{\}"),
        ("encoders=3", "encoders: expected names and their settings, found 3"),
        ("encoders.x={behaviours: [page_visit], training: 3}", r"encoders\.x\.training: expected keys and values"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", [override])


def test_a_shop_of_more_days_than_calendars_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_days: expected 20000 or less, found 10000000"):
        checked(ShopSettings, {"n_days": 10_000_000}, "the simulated shop")


def test_a_behaviour_that_a_stage_cannot_do_without_is_told_where_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "visits.yaml").write_text("behaviours: {page_visit: {item: url}}\n")
    config = load_config(str(tmp_path / "visits.yaml"))
    with pytest.raises(ConfigError, match=r"expected the behaviour product_buy .*, found page_visit; add it"):
        config.events_table("product_buy")


def test_a_missing_file_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'dmeo'.*'demo', 'fourth_place', 'report'"):
        load_config("dmeo")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"seed: \xf6\n", "expected text in UTF-8"),
        (b"", "expected keys and values at the top level, found none"),
        (b"- 1\n", "found a list"),
        (b"3\n", "is not YAML that settings can have"),
        (b"training: {epochs: [", "is not YAML that settings can have"),
        (b"seed: !!python/object/apply:os.getpid []\n", "could not determine a constructor for the tag"),
        (b"1: 3\n", "Keys should be strings"),
        (b"seed: 1\nseed: 2\n", "duplicate key seed"),
        (b"seed: &a 1\ntraining: {epochs: *a}\n", "found a YAML alias"),
        (b"a: &a [*a]\n", "found a YAML alias"),
        (b"base: [demo]\n", r"base: expected the name or path of one configuration, found \['demo'\]"),
        (b"base: 3\n", "base: expected the name or path of one configuration, found 3"),
        (b"base: ${seed}\n", "base: expected the name or path of one configuration"),
        (b"base: ${oc.env:HOME}\n", "base: expected a value"),
        (b"base: ./own.yaml\n", "expected a base that is not based on this file"),
        (b"base: other.yaml\n", "expected a base that is not based on this file"),
    ],
)
def test_a_file_that_no_settings_can_be_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_bytes(contents)
    (tmp_path / "other.yaml").write_text("base: own.yaml\n")
    with pytest.raises(ConfigError, match=message) as refusal:
        load_config("own.yaml")
    assert "own.yaml" in str(refusal.value)


@pytest.mark.parametrize("again", ["${{a{0}}}${{a{0}}}", "{{p: '${{a{0}}}', q: '${{a{0}}}'}}"])
def test_references_that_would_double_with_every_line_are_refused(tmp_path: Path, again: str) -> None:
    """Thirty lines of them took days."""
    lines = ["a0: {k: long}", *(f"a{number}: {again.format(number - 1)}" for number in range(1, 31))]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"a1.*: expected a"):
        load_config(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(("base", "found"), [("/dev/zero", "regular file"), ("large.yaml", "at most 262,144 bytes")])
def test_a_base_that_would_not_end_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(f"base: ./{base}" if base == "large.yaml" else f"base: {base}")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match=f"no configuration .*expected .*{found}"):
        load_config("own.yaml")


@pytest.mark.parametrize("name", ["folder.yaml", "x" * 5000 + "/", "a\0", ""])
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(name)


def test_a_plain_name_is_a_packaged_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_config("demo")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 99\n")
    assert load_config("demo") == expected


def test_a_reference_to_another_setting_is_resolved() -> None:
    assert load_config("demo", ["seed=7", "training.epochs=${seed}"]).training.epochs == 7
    relative = load_config("demo", ["training.epochs=${.tokens_per_batch}", "seed=${sequences.widths.1}"])
    assert (relative.training.epochs, relative.seed) == (relative.training.tokens_per_batch, 8)


@pytest.mark.parametrize("tasks", ["[]", "[dance]", "[churn, churn]"])
def test_tasks_are_known_and_named_once(tasks: str) -> None:
    with pytest.raises(ConfigError, match=r"probe\.tasks: expected some of churn, conversion, .*, each once; found"):
        load_config("demo", [f"probe.tasks={tasks}"])


@pytest.mark.parametrize(
    "text",
    [
        "base: default\nspark: {master: 'spark://host:7077'}",
        "base: default\ntracking: {experiment: 'k8s://https://host'}\nspark: {master: '${tracking.experiment}'}",
        "base: default\nspark: {master: 'localhost'}",
    ],
)
def test_a_file_connects_to_no_cluster(tmp_path: Path, text: str) -> None:
    path = tmp_path / "handed_over.yaml"
    path.write_text(text)
    others = ("training.epochs=2", "spark={driver_memory: 3g}", "spark.driver_memory=3g")
    for of_no_master in (*others, "tracking.experiment='spark://host:1,spark://host:7077'"):
        with pytest.raises(
            ConfigError, match=r"spark\.master: expected a local one such as local\[\*\] in a file, found"
        ):
            load_config(str(path), [of_no_master])
    for own in ("spark.master=spark://mine:7077", "spark={driver_memory: 3g, master: 'spark://mine:7077'}"):
        assert load_config(str(path), [own, "spark={shuffle_partitions: 3}"]).spark.master == "spark://mine:7077"
    path.write_text("base: default\nspark: {master: 'local-cluster[2,1,1024]'}")
    assert load_config(str(path)).spark.master == "local-cluster[2,1,1024]"


def test_every_setting_is_used_somewhere() -> None:
    files = [path for package in ("conf", "ml", "jobs") for path in (FOLDER.parent / package).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    methods = {id(node.func) for node in nodes if isinstance(node, ast.Call)}  # frame.write.mode("overwrite")
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and id(node) not in methods}
    names = set(_leaf_names(PipelineConfig))
    assert {"mode", "learning_rate"} <= names
    assert names - read == set(), "settings that nothing reads"


def _leaf_names(owner: Any) -> list[str]:
    names = []
    for field in fields(owner):
        nested = field.default_factory if is_dataclass(field.default_factory) else None
        names += _leaf_names(nested) if nested else [field.name]
    return names
