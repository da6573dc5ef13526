"""The Databricks bundle: one job whose tasks are the pipeline's stages, with flags that the command line takes.

The bundle names no workspace and no secret. What is read here is what ``databricks bundle`` reads; its own checks need
a workspace.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.load import known_configs, load_config
from jobs.commands.calls import locked_stages
from jobs.commands.flags import build_parser
from jobs.pipeline.registry import STAGES, Stage
from jobs.storage.locations import takes_whole_files
from schemas import tables

ROOT = Path(__file__).parents[1]
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
RESOURCES = [yaml.safe_load(path.read_text()) for pattern in BUNDLE["include"] for path in sorted(ROOT.glob(pattern))]
(JOB,) = [job for resource in RESOURCES for job in resource["resources"]["jobs"].values()]
TASKS = {task["task_key"]: task for task in JOB["tasks"]}
PARAMETERS = {parameter["name"]: parameter["default"] for parameter in JOB["parameters"]}
TEXT = "\n".join(path.read_text() for path in [ROOT / "databricks.yml", *ROOT.glob("resources/*")])
AFTER_OTHER_RANKS = {"interactions": ["graph"]}
OF_AN_ENCODER = {True: ["vocabulary", "train"], False: []}
EXAMPLE = {
    "data": "/Volumes/c/s/v/data",
    "inputs": "rees46",
    "out": "dbfs:/x",
    "config": "demo",
    "catalog": "main",
    "schema": "ubp",
}


def test_a_task_per_stage_with_the_pipelines_graph() -> None:
    assert list(TASKS) == [stage.name for stage in STAGES]
    for stage in STAGES:
        found = [each["task_key"] for each in TASKS[stage.name].get("depends_on", [])]
        # of an encoder too, if settings ask for it: then a task that needs none waits in vain, for the same GPUs
        expected = [*stage.needs, *OF_AN_ENCODER[bool(stage.encoder)], *AFTER_OTHER_RANKS.get(stage.name, [])]
        assert found == expected, stage.name


def test_ranks_of_two_tasks_never_wait_for_the_same_gpus() -> None:
    def before(task: str) -> set[str]:
        direct = {each["task_key"] for each in TASKS[task].get("depends_on", [])}
        return direct.union(*map(before, direct))

    on_gpus = [name for name, task in TASKS.items() if task["job_cluster_key"] == "gpu"]
    assert on_gpus == ["train", "graph", "interactions"]
    assert all(first in before(second) for first, second in pairwise(on_gpus))


def test_the_pipelines_graph_is_what_its_stages_read() -> None:
    """From the code: who passes which table to read_table, read_as_files, read_ingested and write_table."""
    names = {name for name, value in vars(tables).items() if isinstance(value, tables.TableSchema)}
    reads = {stage.name: table_arguments(stage, "read_", names) for stage in STAGES}
    writers = {table: {stage.name} for stage in STAGES for table in table_arguments(stage, "write_table", names)}
    writers |= {table: {"ingest"} for table in ("PRODUCT_PROPERTIES", "events")}
    reads["profile"].discard("IDS")  # rows are only added: it has those of the clients, whichever ingest they are of
    # by jobs/blocks/table.py
    writers["BLOCKS"] = {"baseline", "counters", "factorisation", "graph", "interactions", "embed"}
    for stage in STAGES:
        if stage.reads_ingested:
            reads[stage.name].add("events")
        wanted = set().union(*(writers[table] for table in reads[stage.name] if stage.name not in writers[table]))
        assert wanted <= {*stage.needs, *OF_AN_ENCODER[bool(stage.encoder)]}, stage.name
        before = [other.name for other in STAGES[: STAGES.index(stage)]]
        assert set(stage.needs) <= set(before), stage.name
    by_others = {("embed", "train"), ("probe", "profile"),
                 ("report", "train"), ("report", "probe")}  # fmt: skip
    for stage in STAGES:
        unread = set(stage.needs).difference(*(writers[table] for table in reads[stage.name]))
        assert {(stage.name, need) for need in unread} <= by_others, stage.name


def table_arguments(stage: Stage, prefix: str, names: set[str]) -> set[str]:
    files = [f"{stage.module.replace('.', '/')}.py".removeprefix("jobs/")]
    files += {"probe": ["evaluation/scores.py"], "embed": ["blocks/vectors.py"]}.get(stage.name, [])
    nodes = [node for file in files for node in ast.walk(ast.parse((ROOT / "jobs" / file).read_text()))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    arguments = [each for call in calls if call.func.id.startswith(prefix) for each in call.args]  # type: ignore[attr-defined]
    # names its table itself
    of_windows = {"WINDOWS" for call in calls if call.func.id == "read_windows" and prefix == "read_"}  # type: ignore[attr-defined]
    return {each.id for each in arguments if isinstance(each, ast.Name) and each.id in names} | of_windows


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_a_command_line_that_the_wheel_takes(name: str) -> None:
    wheel = TASKS[name]["python_wheel_task"]
    setup = (ROOT / "setup.py").read_text()
    assert f'name="{wheel["package_name"]}"' in setup
    assert f'"{wheel["entry_point"]} = jobs.cli:main_task"' in setup
    parameters = [substitute(text) for text in wheel["parameters"]]
    arguments = build_parser().parse_args(parameters)
    assert arguments.stage.name == name
    given = {key: getattr(arguments, key) for key in EXAMPLE}
    places = {"data": Path("/Volumes/c/s/v/data"), "out": Path("/dbfs/x")}
    assert given == EXAMPLE | places


def substitute(text: str) -> str:
    """With the job's parameters and the bundle's variables filled in, each of which must be declared."""
    text = re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda match: (PARAMETERS[match[1]], EXAMPLE[match[1]])[1], text)
    return re.sub(r"\$\{var\.(\w+)\}", lambda match: str(BUNDLE["variables"][match[1]].get("default", "x")), text)


def test_tasks_that_may_run_at_once_do_not_lock_each_other_out() -> None:
    locks = {name: locked_stages(build_parser().parse_args([name, "--out", "x"])) for name in TASKS}
    assert locks == {name: [name] for name in TASKS}
    assert locked_stages(build_parser().parse_args(["run", "--out", "x"])) == list(TASKS)


def test_output_goes_to_a_volume_beside_the_data() -> None:
    data, out = (BUNDLE["variables"][name]["default"] for name in ("data", "out"))
    assert out.startswith("/Volumes/${var.catalog}/${var.schema}/")
    assert not out.startswith(f"{data}/")
    assert takes_whole_files(Path(out))


def test_an_empty_catalog_means_tables_in_out_and_empty_inputs_the_challenges_files() -> None:
    assert BUNDLE["variables"]["inputs"]["default"] == ""
    arguments = build_parser().parse_args(["ingest", "--out=x", "--inputs=", "--catalog=", "--schema="])
    assert (arguments.catalog or None, arguments.schema or None) == (None, None)
    assert load_config("demo", inputs=arguments.inputs) == load_config("demo")


def test_a_run_has_the_configuration_of_the_command_line_unless_another_is_named() -> None:
    config = BUNDLE["variables"]["config"]
    assert config["default"] == build_parser().parse_args(["run", "--out=x"]).config
    assert config["description"].split(", ")[:-1] == known_configs()


TRAINING = ("train", "graph", "interactions")


def test_training_alone_has_gpus_and_as_many_ranks_as_machines() -> None:
    clusters = {each["job_cluster_key"]: each["new_cluster"] for each in JOB["job_clusters"]}
    assert {name: clusters[task["job_cluster_key"]]["spark_version"] for name, task in TASKS.items()} == {
        stage.name: f"15.4.x-{'gpu' if stage.name in TRAINING else 'cpu'}-ml-scala2.12" for stage in STAGES
    }
    settings = ["--set", f"training.n_ranks={clusters['gpu']['num_workers']}", "training.device=cuda"]
    for task in TASKS.values():  # every stage: a later one refuses other settings than training's
        assert task["python_wheel_task"]["parameters"][-3:] == settings


def test_the_tasks_install_the_wheel_that_the_bundle_builds() -> None:
    assert BUNDLE["artifacts"]["ubp"]["type"] == "whl"
    assert "--wheel-dir dist" in BUNDLE["artifacts"]["ubp"]["build"]
    for task in TASKS.values():
        assert task["libraries"] == [{"whl": "../dist/*.whl"}]


def test_dev_and_prod_are_there_and_every_variable_is_declared_and_used() -> None:
    assert {name: target["mode"] for name, target in BUNDLE["targets"].items()} == {
        "dev": "development", "prod": "production",
    }  # fmt: skip
    used = set(re.findall(r"\$\{var\.(\w+)\}", TEXT))
    assert used == set(BUNDLE["variables"])
    for target in BUNDLE["targets"].values():
        assert set(target.get("variables", {})) <= used


def test_the_bundle_holds_no_secret_and_names_no_workspace() -> None:
    assert not re.search(
        r"https?://|dapi[0-9a-f]|token|password|secret|host\b|client_id|[0-9a-f]{32}", TEXT, re.IGNORECASE
    )
    keys: set[str] = set()
    collect_keys([BUNDLE, *RESOURCES], keys)
    assert keys.isdisjoint({"host", "profile", "spark_env_vars", "spark_conf"})


def collect_keys(node: Any, keys: set[str]) -> None:
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        collect_keys(child, keys)
    if isinstance(node, dict):
        keys |= node.keys()
