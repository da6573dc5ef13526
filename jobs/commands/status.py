"""``ubp status``: each output, what it was made from and when, and whether it is up to date; without Spark."""

from dataclasses import replace
from pathlib import Path

from conf.pipeline import PipelineConfig
from jobs.pipeline.out_of_date import INGEST, TRAIN, Call, find_outdated, stage_of
from jobs.pipeline.registry import STAGE_NAMES, describe_call, find_gone
from jobs.storage.provenance import PROVENANCE, DataFiles, Record, Records, read_records
from jobs.storage.workspace import Workspace
from schemas.errors import OutputError


def describe_outputs(workspace: Workspace, config: PipelineConfig | None) -> str:
    """The table of all outputs, as the records tell.

    Parameters
    ----------
    config : settings to compare with those that the outputs were made with; None compares none

    Raises
    ------
    OutputError
        If there is no such directory.
    """
    if not workspace.out.is_dir():
        raise OutputError(f"--out {workspace.out}: expected the output directory of a run, found none; correct it")
    records = read_records(workspace)
    if not records:
        return f"{workspace.out} has no {PROVENANCE}: no stage of this version wrote into it\n"
    # no location is compared: this command has no --tables, and the records name theirs
    call = replace(describe_call(config, workspace, reads_ingested=False), tables=None) if config else Call()
    call = replace(call, files=_files_now(records), gone=find_gone(workspace, records))
    # the stage train has no output of its own name: its models have theirs
    outputs = {**call.needs, **dict.fromkeys(STAGE_NAMES), **records}.keys() - {TRAIN}
    in_order = sorted(outputs, key=lambda output: (STAGE_NAMES.index(stage_of(output)), output))
    titles = ("output", "made (UTC)", "rows", "state", "made from")
    rows = [titles, *(_describe(output, records, call) for output in in_order)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _files_now(records: Records) -> DataFiles:
    """The files of the data that the outputs were made from, as they are now, where this machine reaches them."""
    from jobs.inputs.data_files import describe_files  # not at the top: numpy and pyarrow take a while

    found: DataFiles = {}
    for record in records.values():
        data = Path(record.data) if record.data else None  # a mapping's inputs may have paths of their own
        if data is None or data.is_dir():
            described = describe_files(data, record.files)
            found |= {source: files for source, files in described.items() if files or data}
    return found


def _describe(output: str, records: Records, call: Call) -> tuple[str, ...]:
    record = records.get(output)
    if record is None:
        return output, "", "", "not made", ""
    made = (record.made or "").removesuffix("+00:00")
    rows = f"{sum(record.rows.values()):,}" if record.rows else ""
    outdated = find_outdated([output], records, call)
    own = outdated.pop(output, [])
    causes = dict.fromkeys([*(reason.cause for reason in own), *outdated])
    state = f"outdated by {', '.join(causes)}" if causes else "up to date"
    if any(reason.kind == "not made" for reason in own):
        state = own[0].cause  # not finished: what else it is outdated by does not matter
    return output, made, rows, state, ", ".join(_sources(output, record, records))


def _sources(output: str, record: Record, records: Records) -> list[str]:
    """What it was made from: the directory, the ingest, and outputs with the versions of their tables."""
    sources = [record.data] if record.data else []
    if output != INGEST and record.ingest is not None:
        sources.append(f"ingest {record.ingest}{' (--as-of)' if record.as_of is not None else ''}")
    for name in record.inputs:
        tables = records[name].written if name in records else {}
        versions = [f"{table} {record.read[table]}" for table in tables if table in record.read]
        if name != INGEST or record.ingest is None:  # else the ingest stands there by its number
            sources.append(f"{name} ({', '.join(versions)})" if versions and name != INGEST else name)
    return sources
