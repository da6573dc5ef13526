"""Locations: what the user writes, what Python opens, the URLs that Spark gets, and what SQL text may hold."""

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.storage.locations import (
    file_url,
    mounted_path,
    mounted_path_or_url,
    plain_path,
    quoted_name,
    readable_path,
    spark_url,
    table_url,
    takes_whole_files,
)
from jobs.storage.workspace import Workspace
from schemas.errors import ConfigError, OutputError


@pytest.mark.parametrize(
    ("text", "path", "url"),
    [
        ("/mnt/run", "/mnt/run", "file:/mnt/run"),
        ("file:/mnt/run", "/mnt/run", "file:/mnt/run"),
        ("file:///mnt/run", "/mnt/run", "file:/mnt/run"),
        ("dbfs:/ubp/run", "/dbfs/ubp/run", "dbfs:/ubp/run"),
        ("/dbfs/ubp/run", "/dbfs/ubp/run", "dbfs:/ubp/run"),
        ("dbfs:/Volumes/main/ubp/run", "/Volumes/main/ubp/run", "/Volumes/main/ubp/run"),
        ("/Volumes/main/ubp/run", "/Volumes/main/ubp/run", "/Volumes/main/ubp/run"),
        ("/Workspace/run", "/Workspace/run", "/Workspace/run"),
        ("a:b/run", f"{Path.cwd()}/a:b/run", f"file:{Path.cwd()}/a:b/run"),
        ("run", f"{Path.cwd()}/run", f"file:{Path.cwd()}/run"),
    ],
)
def test_python_opens_a_mount_and_spark_is_told_a_url(text: str, path: str, url: str) -> None:
    assert mounted_path(text) == Path(path)
    assert spark_url(mounted_path(text)) == url


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["ingest", "--out", "hdfs:/x"], "expected a path that driver and workers mount"),
        (["ingest", "--out", "s3://key:word@bucket/x"], "expected a URL without a password in it"),
        (["ingest", "--out", "gs://bucket/a?b"], "expected a URL such as"),
        (
            ["ingest", "--out", "https://key:word@host/x"],
            "mount, dbfs:/... or /Volumes/..., found 'https://...@host/x'",
        ),
        (
            ["ingest", "--data", "wasbs://box@host/x?sig=:word@", "--out", "o"],
            "found 'wasbs://...@host/x', and more after",
        ),
        (
            ["validate", "--data", "x", "--entry", "s3://key:word@bucket/x"],
            "expected a path that driver and workers mount",
        ),
    ],
)
def test_a_place_that_cannot_be_one_is_refused_with_what_to_do(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(flags)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert ":word@" not in error


@pytest.mark.parametrize(
    ("text", "place", "is_whole"),
    [
        ("s3://bucket/run/", "s3://bucket/run", True),
        ("s3a://bucket/run", "s3://bucket/run", True),
        ("abfss://box@account.dfs.core.windows.net/run", "abfss://box@account.dfs.core.windows.net/run", True),
        ("gs://bucket", "gs://bucket", True),
        ("dbfs:/run", Path("/dbfs/run"), True),
        ("/Volumes/c/s/v/run", Path("/Volumes/c/s/v/run"), True),
        ("/Workspace/run", Path("/Workspace/run"), False),
        ("/mnt/run", Path("/mnt/run"), False),
    ],
)
def test_stores_volumes_and_dbfs_take_whole_files_only(text: str, place: Path | str, is_whole: bool) -> None:
    assert mounted_path_or_url(text) == place
    assert takes_whole_files(place) == is_whole


@pytest.mark.parametrize("command", ["generate", "vacuum", "compact"])
def test_commands_that_work_on_mounted_folders_alone_refuse_a_store(
    command: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([command, "--out", "s3://bucket/run"]) == 2
    assert "expected a path that driver and workers mount" in caplog.text


@pytest.mark.parametrize("folder", ["made#1", "what?/out"])
def test_an_output_that_training_could_not_read_is_refused_at_once(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for command in ("run", "sequences", "train"):
        assert main([command, "--out", str(tmp_path / folder)]) == 2
        assert "expected a path without # and ?" in caplog.text
        caplog.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "path", "petastorm"),
    [
        ("file:///mnt/a%20b/part-0.parquet", "/mnt/a b/part-0.parquet", "file:///mnt/a%20b/part-0.parquet"),
        ("dbfs:/ubp/a%20b/part-0.parquet", "/dbfs/ubp/a b/part-0.parquet", "file:///dbfs/ubp/a%20b/part-0.parquet"),
        ("s3a://b/a%20b/part-0.parquet", "s3://b/a b/part-0.parquet", "s3://b/a%20b/part-0.parquet"),
        ("dbfs:/Volumes/c/s/v/part-0.parquet", "/Volumes/c/s/v/part-0.parquet", "file:///Volumes/c/s/v/part-0.parquet"),
        ("file:/mnt/a%20b/part-0.parquet", "/mnt/a b/part-0.parquet", "file:///mnt/a%20b/part-0.parquet"),
    ],
)
def test_files_that_spark_names_are_opened_under_their_mount(url: str, path: str, petastorm: str) -> None:
    assert readable_path(url) == path
    assert file_url(url) == petastorm


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("file:/mnt/a b#1%20c/part-0.parquet", "/mnt/a b#1%20c/part-0.parquet"),
        ("file:///mnt/a?b/part-0.parquet", "/mnt/a?b/part-0.parquet"),
        ("dbfs:/ubp/a#1/part-0.parquet", "/dbfs/ubp/a#1/part-0.parquet"),
        ("dbfs:/Volumes/c/s/v/50%25/part-0.parquet", "/Volumes/c/s/v/50%25/part-0.parquet"),
        ("/Volumes/c/s/v/a:b.parquet", "/Volumes/c/s/v/a:b.parquet"),
    ],
)
def test_names_that_are_not_encoded_are_taken_as_they_are(name: str, path: str) -> None:
    assert plain_path(name) == path


def test_a_file_that_no_mount_reaches_is_refused() -> None:
    for path_of in (readable_path, plain_path):
        with pytest.raises(OutputError, match="expected a file under a mount"):
            path_of("hdfs://bucket/part-0.parquet")


@pytest.mark.parametrize("name", ["a`; DROP TABLE x; --", "a b", "", "a.b", "é", "-x", "a\n", "../x"])
def test_no_name_reaches_sql_text_that_is_more_than_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        quoted_name("main", name)
    with pytest.raises(ConfigError, match="expected"):
        Workspace(Path("out"), catalog="main", schema=name)


def test_a_table_has_one_place() -> None:
    out = Path("/out")
    assert Workspace(out).table("windows") == "/out/tables/windows"
    assert Workspace(out, catalog="main", schema="ubp-dev").table("windows") == "`main`.`ubp-dev`.`windows`"
    assert Workspace(out, tables_url="s3://bucket/x/").table("windows") == "s3a://bucket/x/windows"
    for locations in ({"catalog": "main"}, {"schema": "x"}, {"catalog": "a", "schema": "b", "tables_url": "s3://x/y"}):
        with pytest.raises(ConfigError, match="--catalog and --schema together"):
            Workspace(out, **locations)


def test_a_tilde_that_the_shell_left_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mounted_path("~/run") == tmp_path / "run"
    assert mounted_path("/x/~old") == Path("/x/~old")
    assert mounted_path("~old") == Path("~old").absolute()


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(ConfigError, match="expected a path, found an empty text"):
        mounted_path("")


@pytest.mark.parametrize(
    "setting", ["probe.entries=[s3://key:word@b/x]", "ensemble.blocks=[a=s3://key:word@b/x]", "--config"]
)
def test_a_secret_in_a_url_among_the_settings_is_not_repeated(
    setting: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = ["--config", "https://key:word@b/x.yaml"] if setting == "--config" else ["--set", setting]
    assert main(["probe", "--out", str(tmp_path / "out"), *named]) == 2
    assert "...@b/x" in caplog.text
    assert "word" not in caplog.text


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for url in ("s3a://key:hush@bucket/x", "s3a://key:a/hush@bucket/x", "abfss://box@account/x?sig=hush"):
        with pytest.raises(ConfigError, match=r"without a password|and more after a") as error:
            table_url(url)
        assert "hush" not in str(error.value)
    assert table_url("abfss://box@account.dfs.core.windows.net/x") == "abfss://box@account.dfs.core.windows.net/x"


@pytest.mark.parametrize("url", ["/mnt/x", "s3:/x", "s3://", "s3://a b", "s3://a?versionId=1"])
def test_a_folder_of_tables_is_a_url(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a URL"):
        table_url(url)
