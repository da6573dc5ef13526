"""The rule by which an output is out of date: a function of records (``jobs.storage.provenance``) and nothing else."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.storage.provenance import MODELS, DataFiles, Record, Records
from schemas.errors import OutdatedError

INGEST, TRAIN = "ingest", "train"


@dataclass(frozen=True)
class Call:
    """What outputs are compared with, besides one another.

    Attributes
    ----------
    needs : output -> the outputs that it is made from; empty for what the records say
    settings : output -> dotted setting -> value; empty compares none
    data : the challenge directory; None compares none
    files : the files of that, and of entries from elsewhere, as they are now, by source; a source that is not there
        compares none
    tables : where the tables are, empty for in ``--out``; None compares none
    as_of : the ingest that was asked for, None for the newest
    reads_ingested : whether the command reads what ingest wrote: then it must be what the outputs were made from
    gone : output -> folders that were written and are not there now
    """

    needs: Mapping[str, Collection[str]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: str | None = None
    files: DataFiles = field(default_factory=dict)
    tables: str | None = None
    as_of: int | None = None
    reads_ingested: bool = False
    gone: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """Why an output is out of date.

    Attributes
    ----------
    cause : what it is out of date by, in a word or two
    text : what was expected and what was found
    fix : what to do besides making the output again; empty where there is nothing
    """

    kind: Literal["not made", "gone", "inputs", "settings", "data", "files", "tables", "ingest"]
    cause: str
    text: str
    fix: str = ""


def find_reasons(output: str, records: Records, call: Call) -> list[Reason]:
    """Why one output is out of date, whatever its inputs are; empty where it is not."""
    record = records.get(output)
    if record is None:
        return [Reason("not made", "not made", f"expected {output}, found that it was not made")]
    if record.made is None:
        text = f"expected {output}, found that {record.stage} began to make it at {record.began} and did not end"
        return [Reason("not made", "not finished", text)]
    if folders := call.gone.get(output):
        text = f"expected {', '.join(folders)}, which {record.stage} wrote by {record.made}, found that it was removed"
        return [Reason("gone", "removed files", text)]
    reasons = [
        # of another --data or location all files differ: one reason says it
        _compare_locations(output, record, call) or _compare_files(output, record, call),
        _compare_inputs(output, record, records, call),
        _compare_ingest(output, record, records, call),
        _compare_settings(record, call.settings.get(output, {})),
    ]
    return [reason for reason in reasons if reason]


def lineage(outputs: Iterable[str], records: Records, call: Call, fresh: Collection[str] = ()) -> list[str]:
    """The outputs and all that they were made from, each after its inputs.

    The newest ingest is none of them where another is asked for.

    Parameters
    ----------
    fresh : outputs that are made before they are read: neither they nor what only they are made from is listed
    """
    found: list[str] = []
    # an ingest that is asked for by its number stays as it is, whatever the newest one was made from
    seen = {*fresh, INGEST} if call.as_of is not None else set(fresh)

    def visit(output: str) -> None:
        if output not in seen:
            seen.add(output)
            record = records.get(output)
            # by its record, what it was made from; without one, what it would be made from
            for each in record.inputs if record else call.needs.get(output, ()):
                visit(each)
            found.append(output)

    for output in outputs:
        visit(output)
    return found


def find_outdated(
    outputs: Iterable[str], records: Records, call: Call, fresh: Collection[str] = ()
) -> dict[str, list[Reason]]:
    """Which of the outputs, and of all that they were made from, are out of date, and why; each after its inputs.

    An output without a record is taken as it is where nothing that it is made from has one: an earlier version made it.
    """
    outdated = {}
    for output in lineage(outputs, records, call, fresh):
        is_recorded = output in records or any(need in records for need in call.needs.get(output, ()))
        if is_recorded and (reasons := find_reasons(output, records, call)):
            outdated[output] = reasons
    return outdated


def expected_inputs(needs: Iterable[str], as_of: int | None, records: Records) -> dict[str, str]:
    """The outputs that are read -> the last making of each; without those that have no record.

    An ingest that was asked for by its number is known by that: others may have run since.
    """
    return {name: records[name].id for name in needs if name in records and not (name == INGEST and as_of is not None)}


def _compare_inputs(output: str, record: Record, records: Records, call: Call) -> Reason | None:
    as_of = record.as_of if call.as_of is None else call.as_of
    # a making has its id from its beginning: an input that began to be made again is another one, finished or not
    expected = expected_inputs(call.needs.get(output, record.inputs), as_of, records)
    found = {name: made for name, made in record.inputs.items() if not (name == INGEST and as_of is not None)}
    changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if not changed:
        return None
    name = changed[0]
    if name not in found:
        text = f"expected {output} made from {name} too, found that it was made without"
    elif name not in expected:
        text = f"expected {output} made without {name}, found that it was made from it"
    else:
        newest = "newest" if name == INGEST else "present"
        text = f"expected {output} made from the {newest} {name}, found that it was made from an earlier one"
    return Reason("inputs", ", ".join(changed), text)


def _compare_ingest(output: str, record: Record, records: Records, call: Call) -> Reason | None:
    if not call.reads_ingested or record.ingest is None or output == INGEST:
        return None
    newest = records[INGEST].ingest if INGEST in records else None
    asked = newest if call.as_of is None else call.as_of
    if record.ingest == asked:
        return None
    wanted = f"ingest {call.as_of} (--as-of)" if call.as_of is not None else "the newest ingest"
    text = f"expected {output} made from {wanted}, found ingest {record.ingest}"
    return Reason("ingest", f"ingest {asked}", text, f"give --as-of {record.ingest}")


def _compare_locations(output: str, record: Record, call: Call) -> Reason | None:
    if call.tables is not None and record.tables != call.tables:
        # a location ends in a newline, that of --out is empty (``Workspace.named_tables``)
        wanted, found = (f"tables in {location.strip() or '--out'}" for location in (call.tables, record.tables))
        text = f"expected {output} made with {wanted}, found {found}"
        return Reason("tables", "another location of tables", text, "give the same --tables, or --catalog and --schema")
    if record.data and call.data and record.data != call.data:
        text = f"expected --data {record.data}, which {output} was made from, found {call.data}"
        return Reason("data", "another --data", text, "leave --data out, choose another --out")
    return None


def _compare_files(output: str, record: Record, call: Call) -> Reason | None:
    changes = []
    for source in record.files.keys() & call.files.keys():
        before, now = record.files[source], call.files[source]
        changes += [f"{name} added" for name in now.keys() - before.keys()]
        changes += [f"{name} removed" for name in before.keys() - now.keys()]
        changes += [f"{name} replaced" for name in before.keys() & now.keys() if before[name] != now[name]]
    if not changes:
        return None
    found = f"{', '.join(sorted(changes)[:5])}{f', and {len(changes) - 5} more' if len(changes) > 5 else ''}"
    if all(change.startswith("/") for change in changes):  # entries, or inputs of a mapping by paths of their own
        return Reason("files", "other files", f"expected the files that {output} was made from, found {found}")
    text = f"expected the files of {call.data} that {output} was made from, found {found}"
    return Reason("files", "other files in --data", text, "leave --data out")


def _compare_settings(record: Record, settings: Mapping[str, Any]) -> Reason | None:
    settings = json.loads(json.dumps(settings))  # as the record has them: JSON makes lists of tuples
    # by the keys of this call: a behaviour that it leaves out is no contradiction; None is as good as a setting that an
    # earlier version did not have
    differing = [key for key, value in settings.items() if record.settings.get(key) != value]
    if not differing:
        return None
    had = ", ".join(f"{key}={record.settings.get(key, 'none')} (now {settings[key]})" for key in differing[:5])
    text = f"expected the settings that {record.stage} ran with, found others: {record.stage} had {had}"
    return Reason("settings", ", ".join(differing[:3]), text, "give the same")


def require_up_to_date(
    caller: str, outputs: Iterable[str], records: Records, call: Call, fresh: Collection[str] = ()
) -> None:
    """Raise OutdatedError where outputs that a command reads are out of date; ``fresh`` as in ``lineage``."""
    if outdated := find_outdated(outputs, records, call, fresh):
        raise refusal(caller, outdated)


def refusal(caller: str, outdated: Mapping[str, Sequence[Reason]]) -> OutdatedError:
    """The error of a command that stops before it reads outdated outputs: the first of them and what to do."""
    first, *others = outdated
    reason, stage = outdated[first][0], stage_of(first)
    fixes = [reason.fix] if reason.fix else []
    if models := [name.removeprefix(MODELS) for name in outdated if name.startswith(MODELS)]:
        fixes.append(f"run `ubp train --only {' '.join(models)}`")
    fixes.append(f"run again from {stage} (`ubp run --from {stage}`)")
    also = f"; out of date too: {', '.join(others)}" if others else ""
    return OutdatedError(f"{caller}: {reason.text}{also}; {', or '.join(fixes)}")


def stage_of(output: str) -> str:
    """The stage that makes an output."""
    return TRAIN if output.startswith(MODELS) else output
