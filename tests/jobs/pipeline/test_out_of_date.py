"""The rule by which an output is out of date, on literal records."""

from dataclasses import replace

import pytest

from jobs.pipeline.out_of_date import Call, find_outdated, find_reasons, lineage, refusal, require_up_to_date
from jobs.storage.provenance import Record, Records
from schemas.errors import OutdatedError

NEEDS = {
    "ingest": [],
    "split": ["ingest"],
    "sequences": ["ingest", "split"],
    "models/visits": ["sequences"],
    "models/buys": ["sequences"],
    "embed": ["split", "sequences", "models/visits", "models/buys"],
    "report": ["embed"],
}
CALL = Call(NEEDS, data="/shop", tables="")


def made(stage: str, own_id: str, **inputs: str) -> Record:
    names = {name.replace("__", "/"): of for name, of in inputs.items()}
    return Record(stage, own_id, "2026-01-01", "2026-01-02", names)


RECORDS: Records = {
    "ingest": replace(made("ingest", "i1"), data="/shop", ingest=1),
    "split": replace(made("split", "s1", ingest="i1"), data="/shop", ingest=1),
    "sequences": replace(made("sequences", "q1", ingest="i1", split="s1"), ingest=1, settings={"seed": 3}),
    "models/visits": replace(made("train", "v1", sequences="q1"), settings={"encoders.visits.n_heads": 2}),
    "models/buys": replace(made("train", "b1", sequences="q1"), settings={"encoders.buys.n_heads": 2}),
    "embed": made("embed", "e1", split="s1", sequences="q1", models__visits="v1", models__buys="b1"),
}


def causes(outputs: list[str], records: Records, call: Call = CALL) -> dict[str, list[str]]:
    return {
        output: [reason.cause for reason in reasons]
        for output, reasons in find_outdated(outputs, records, call).items()
    }


def test_a_run_that_nothing_happened_to_is_up_to_date() -> None:
    assert causes(["embed"], RECORDS) == {}
    assert causes(["embed"], RECORDS, Call()) == {}
    assert causes(["embed"], RECORDS, replace(CALL, reads_ingested=True)) == {}


def test_what_reads_an_output_is_outdated_when_that_is_made_again() -> None:
    again = RECORDS | {"ingest": replace(RECORDS["ingest"], id="i2", ingest=2)}
    assert causes(["embed"], again) == {"split": ["ingest"], "sequences": ["ingest"]}
    assert causes(["embed"], again, Call()) == {"split": ["ingest"], "sequences": ["ingest"]}
    (reason,) = find_reasons("split", again, CALL)
    assert reason.text == "expected split made from the newest ingest, found that it was made from an earlier one"
    again = RECORDS | {"models/buys": replace(RECORDS["models/buys"], id="b2")}
    assert causes(["embed"], again) == {"embed": ["models/buys"]}
    assert causes(["models/visits"], again) == {}, "models do not read one another"


def test_an_output_in_the_making_does_not_count_and_outdates_what_was_made_from_it() -> None:
    begun = RECORDS | {"sequences": replace(RECORDS["sequences"], id="q2", made=None)}
    assert list(causes(["embed"], begun)) == ["sequences", "models/visits", "models/buys", "embed"]
    (reason,) = find_reasons("sequences", begun, CALL)
    assert "found that sequences began to make it at 2026-01-01 and did not end" in reason.text


def test_an_output_without_a_record_is_taken_as_it_is_unless_its_inputs_have_one() -> None:
    alone = {"sequences": replace(RECORDS["sequences"], inputs={}), "models/buys": RECORDS["models/buys"]}
    assert causes(["sequences"], {}) == {}
    assert causes(["models/buys"], alone) == {}
    assert causes(["models/visits"], alone) == {"models/visits": ["not made"]}
    without = {name: record for name, record in RECORDS.items() if name != "models/buys"}
    assert causes(NEEDS["embed"], without) == {"models/buys": ["not made"]}  # type: ignore[arg-type]


def test_an_encoder_that_the_configuration_adds_or_no_longer_names_outdates_what_reads_models() -> None:
    fewer = replace(CALL, needs=NEEDS | {"embed": ["split", "sequences", "models/visits"]})
    (reason,) = find_reasons("embed", RECORDS, fewer)
    assert reason.text == "expected embed made without models/buys, found that it was made from it"
    inputs = {name: of for name, of in RECORDS["embed"].inputs.items() if name != "models/buys"}
    (reason,) = find_reasons("embed", RECORDS | {"embed": replace(RECORDS["embed"], inputs=inputs)}, CALL)
    assert reason.text == "expected embed made from models/buys too, found that it was made without"


def test_settings_are_compared_with_those_of_the_record() -> None:
    call = replace(CALL, settings={"sequences": {"seed": 4, "new": (1, 2)}, "split": {}})
    (reason,) = find_reasons("sequences", RECORDS, call)
    assert reason.text.endswith("found others: sequences had seed=3 (now 4), new=none (now [1, 2])")
    none = replace(CALL, settings={"sequences": {"seed": 3, "of a later version": None}})
    assert find_reasons("sequences", RECORDS, none) == []
    kept = replace(RECORDS["sequences"], settings={"seed": 4, "new": [1, 2], "of a behaviour that is left out": 1})
    assert find_reasons("sequences", RECORDS | {"sequences": kept}, call) == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (replace(CALL, data="/other"), "expected --data /shop, which split was made from, found /other"),
        (replace(CALL, tables="s3://b\n"), "expected split made with tables in s3://b, found tables in --out"),
        (replace(CALL, as_of=0, reads_ingested=True), "expected split made from ingest 0 (--as-of), found ingest 1"),
    ],
)
def test_another_directory_place_or_ingest_is_named(call: Call, expected: str) -> None:
    assert [reason.text for reason in find_reasons("split", RECORDS, call)] == [expected]


def test_files_of_the_data_that_changed_are_named_and_those_that_nothing_is_known_of_are_not() -> None:
    before = {"buys": {"buys/0": [9, 1], "buys/1": [9, 1]}, "visits": {"visits": [5, 1]}, "searches": {}}
    records = RECORDS | {"ingest": replace(RECORDS["ingest"], files=before)}
    assert causes(["embed"], records, replace(CALL, files={**before, "wishes": {"wishes": [1, 1]}})) == {}
    assert causes(["embed"], records) == {}, "a call without --data"
    now = {"buys": {"buys/0": [9, 1], "buys/2": [9, 1]}, "visits": {"visits": [5, 2]}, "searches": {"searches": [1, 1]}}
    assert causes(["embed"], RECORDS, replace(CALL, files=now)) == {}, "a record of an earlier version"
    with pytest.raises(OutdatedError) as error:
        require_up_to_date("embed", NEEDS["embed"], records, replace(CALL, files=now))
    assert str(error.value) == (
        "embed: expected the files of /shop that ingest was made from, found buys/1 removed, buys/2 added, searches "
        "added, visits replaced; leave --data out, or run again from ingest (`ubp run --from ingest`)"
    )


def as_of_0() -> Records:
    """Ingest 1 ran after ingest 0; the rest was asked to read 0."""
    split = replace(made("split", "s1"), as_of=0, ingest=0)
    return RECORDS | {"split": split, "sequences": replace(made("sequences", "q1", split="s1"), as_of=0, ingest=0)}


def test_an_ingest_that_was_asked_for_is_not_forgotten() -> None:
    reads = replace(CALL, reads_ingested=True)
    (reason,) = find_reasons("split", as_of_0(), reads)
    assert (reason.text, reason.fix) == (
        "expected split made from the newest ingest, found ingest 0", "give --as-of 0"
    )  # fmt: skip
    assert causes(["sequences"], as_of_0(), replace(reads, as_of=0)) == {}
    assert causes(["sequences"], as_of_0()) == {}, "what reads no ingest goes by its inputs"
    begun = as_of_0() | {"ingest": replace(RECORDS["ingest"], made=None)}
    assert causes(["sequences"], begun, replace(reads, as_of=0)) == {}, "a later ingest that died is no concern"


def test_the_ingest_that_was_the_newest_can_be_asked_for_when_it_is_no_more() -> None:
    again = RECORDS | {"ingest": replace(RECORDS["ingest"], id="i2", ingest=2)}
    assert causes(["sequences"], again, replace(CALL, as_of=1, reads_ingested=True)) == {}
    died = again | {"ingest": replace(again["ingest"], made=None)}
    assert causes(["sequences"], died, replace(CALL, as_of=1, reads_ingested=True)) == {}


def test_what_is_made_before_it_is_read_is_not_compared() -> None:
    begun = RECORDS | {"sequences": replace(RECORDS["sequences"], made=None)}
    assert find_outdated(NEEDS["report"], begun, CALL, fresh=["sequences", "embed"]) == {}
    assert lineage(["embed"], RECORDS, CALL, fresh=["sequences", "models/visits", "models/buys"]) == [
        "ingest", "split", "embed",
    ]  # fmt: skip


def test_a_refusal_names_the_first_cause_the_others_and_the_command() -> None:
    again = RECORDS | {"ingest": replace(RECORDS["ingest"], id="i2")}
    with pytest.raises(OutdatedError) as error:
        require_up_to_date("embed", NEEDS["embed"], again, CALL)
    assert str(error.value) == (
        "embed: expected split made from the newest ingest, found that it was made from an earlier one; out of date "
        "too: sequences; run again from split (`ubp run --from split`)"
    )
    without = {name: record for name, record in RECORDS.items() if name != "models/buys"}
    message = str(refusal("embed", find_outdated(NEEDS["embed"], without, CALL)))
    assert "run `ubp train --only buys`, or run again from train (`ubp run --from train`)" in message
