"""The stages in the order they run, and how one of them is run."""

import fnmatch
import importlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from conf.load import flat_settings, to_yaml
from conf.pipeline import PipelineConfig
from conf.training import WITHOUT_EFFECT_ON_WEIGHTS, FeedSettings
from jobs.pipeline import out_of_date as rule
from jobs.runtime.progress import spark_progress
from jobs.storage.files import write_text
from jobs.storage.metrics_log import append_metrics, lines_of_stage, log_size, read_metrics
from jobs.storage.provenance import CONFIG, MODELS, DataFiles, Record, Records, changed_records, read_records, utc_now
from jobs.storage.workspace import Workspace
from schemas.blocks import ALS_CATEGORY, ALS_URL, COUNTERS, GRAPH, INTERACTIONS, ON_REQUEST
from schemas.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

VOCABULARY = "vocabulary"
SHUFFLE_BUFFER = "feed.shuffle_buffer_mib"
SETTINGS = {
    "ingest": ("ingest.*", "behaviours.*.item", "behaviours.*.kind", "mapping.*"),
    "split": ("windows.*",),
    "vocabulary": ("behaviours.*.min_count", "streams.*.behaviours"),
    "sequences": ("seed", "sequences.*", "streams.*", "behaviours.*.keep_rare_as_unk"),
    "train": ("encoders.{encoder}.*", SHUFFLE_BUFFER),
    "counters": ("ensemble.activity", "ensemble.activity_days", f"ensemble.blocks.{COUNTERS}"),
    "factorisation": ("factorisation.*", *(f"ensemble.blocks.{name}" for name in (ALS_CATEGORY, ALS_URL))),
    # each rank draws the first vectors of its own clients
    "graph": ("graph.*", "training.n_ranks", f"ensemble.blocks.{GRAPH}"),
    "interactions": (
        "seed",
        "interactions.*",
        f"ensemble.blocks.{INTERACTIONS}",
        "training.n_ranks",
        "training.device",
    ),
    "embed": ("encoders.*.inference.*",),
    "profile": ("ensemble.*",),
    "probe": ("probe.*",),
}
"""Stage -> the settings that its output depends on, and not by what it reads. ``streams.<name>`` is what the encoders
of a stream ask for together (``conf.sequences.Stream``), ``ensemble.blocks.<name>`` whether a block that is made on
request is asked for. What completes encoders (``model``, ...) is theirs.
"""
ASKS = ("ensemble.blocks.", "ensemble.activity")
"""Settings of ``SETTINGS`` that ask for a block begin so; the stage of one that nothing asks for makes nothing."""
WITHOUT_EFFECT = (
    "ingest.count_duplicates",
    "ingest.max_quarantined_share",
    "*.inference.tokens_per_batch",
    "*.inference.clients_per_partition",
    *(f"*.training.{name}" for name in WITHOUT_EFFECT_ON_WEIGHTS),
)
"""Settings that no output depends on."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: its file has ``run(spark, config, workspace)``.

    It may have ``clean_up(config, workspace)`` too, called when the output is recorded as made.
    """

    name: str
    about: str
    needs: tuple[str, ...] = ()
    """The stages that write what this one reads: those that must have run, whoever starts it."""
    needs_targets: bool = False
    """Left out in mode ``entry``, where the profiles have seen the target windows."""
    reads_ingested: bool = False
    """Reads the tables that ingest wrote: takes ``--as-of``."""
    saves_config: bool = True
    """Its settings become ``config.yaml``; not where it works beside the run that ``--out`` holds."""
    opens: tuple[str, ...] = ()
    """Folders of plain files that it opens: they are fetched first where ``--out`` is a store."""
    encoder: str = ""
    """A setting that may name an encoder, whose model and vocabulary it then reads where its block is asked for."""
    file: str = ""
    """Name of its file in ``jobs/stages``, where that is not its own."""

    @property
    def module(self) -> str:
        """Of its file, as it is imported."""
        return f"jobs.stages.{self.file or self.name}"

    def is_left_out(self, config: PipelineConfig) -> bool:
        """Whether the mode of the windows has no use for it."""
        return self.needs_targets and config.windows.mode == "entry"

    def outputs(self, config: PipelineConfig, only: Sequence[str] = ()) -> list[str]:
        """What it makes, as ``provenance.json`` names it.

        Parameters
        ----------
        only : some encoders; all where none is named
        """
        return [MODELS + name for name in only or config.encoders] if self.name == rule.TRAIN else [self.name]

    def inputs(self, config: PipelineConfig) -> list[str]:
        """The outputs that it reads."""
        needed = [stage for stage in STAGES if stage.name in self.needs and not stage.is_left_out(config)]
        outputs = [output for stage in needed for output in stage.outputs(config)]
        if not self.encoder or self.name not in config.ensemble.named_blocks:
            return outputs
        encoder = attrgetter(self.encoder)(config)
        return [*outputs, VOCABULARY, MODELS + encoder] if encoder else outputs

    def check_inputs(self, config: PipelineConfig, workspace: Workspace) -> None:
        """Stop, before anything is written, where what the stage reads disagrees with itself or with the call.

        Raises
        ------
        OutdatedError
            Naming what is out of date, by what, and what to do.
        """
        records = read_records(workspace)
        call = self.as_reader(describe_call(config, workspace, self.reads_ingested, records))
        rule.require_up_to_date(self.name, self.inputs(config), records, call)

    def as_reader(self, call: rule.Call) -> rule.Call:
        """What its inputs are compared with: of folders that are gone, those count that it opens."""
        gone = {
            output: [folder for folder in folders if folder.partition("/")[0] in self.opens]
            for output, folders in call.gone.items()
        }
        return replace(call, reads_ingested=self.reads_ingested, gone=gone)

    def run(
        self,
        spark: "SparkSession",
        config: PipelineConfig,
        workspace: Workspace,
        planned: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Do the stage's work, record what its output was made from, and log how long it took.

        Until it ends well, neither its own output nor what is made of it counts as made.

        Parameters
        ----------
        planned : outputs of later stages of the same run, which will have its settings too
        options : what the stage's own ``run`` takes beyond the three
        """
        from jobs.inputs.data_files import check_data, describe_files, list_entry_files, list_sources

        log.info("%s: %s", self.name, self.about)
        # before they are read: what changes from now on is found by the next run
        files = describe_files(
            workspace.challenge, [*list_sources(self.name, config), *list_entry_files(self.name, config)]
        )
        begin = partial(self._begin, config, workspace, self.outputs(config, options.get("only", ())), planned, files)
        is_ingest = self.name == rule.INGEST
        begun = {} if is_ingest else begin()
        workspace.pull(*self.opens)
        started, n_bytes = time.monotonic(), log_size(workspace.metrics)
        with spark_progress(spark.sparkContext, self.name), lines_of_stage(self.name):
            # only now: stages import Spark and torch, which `ubp --help` and `ubp status` do without
            module = importlib.import_module(self.module)
            opened = {}
            if is_ingest:
                # before it counts as begun: a mistake in them must not outdate what a finished run made
                if workspace.challenge is None:  # else the command line has checked them
                    check_data(config, workspace)
                opened["inputs"] = module.open_inputs(spark, config, workspace)
                begun = begin()
            module.run(spark, config, workspace, **opened, **options)
        seconds = round(time.monotonic() - started, 2)
        # by name, for other stages may have added lines meanwhile
        own = [line for line in read_metrics(workspace.metrics, n_bytes) if line.get("stage") == self.name]
        workspace.push()  # before it counts as made
        _end(workspace, begun, own)
        if hasattr(module, "clean_up"):  # only now: what is not recorded is made again, from its checkpoints
            module.clean_up(config, workspace, **options)
        n_rows = sum(line.get("table/rows", 0) for line in own)
        append_metrics(workspace.metrics, {"stage": self.name, "stage/seconds": seconds, "stage/rows": n_rows})
        workspace.push()
        extra = {"stage": self.name, "seconds": seconds, "rows": n_rows}  # keys of a line of --json-logs
        log.info("%s: done in %.1f s, %s rows written", self.name, seconds, f"{n_rows:,}", extra=extra)

    def _begin(
        self,
        config: PipelineConfig,
        workspace: Workspace,
        outputs: Sequence[str],
        planned: Sequence[str],
        files: DataFiles,
    ) -> Records:
        """Refuse inputs that disagree, or record the outputs as begun."""
        with changed_records(workspace) as records:
            # the command line checked before Spark started; until now, other stages could change the records. Files of
            # the data that change while a run works do not stop it: the next run finds them
            call = describe_call(config, workspace, self.reads_ingested)
            rule.require_up_to_date(self.name, self.inputs(config), records, call)
            newest = records[rule.INGEST].ingest if rule.INGEST in records else None
            if self.reads_ingested and newest is not None and not 0 <= (workspace.as_of or 0) <= newest:
                raise TableError(f"--as-of: expected an ingest from 0 to {newest}, found {workspace.as_of}; correct it")
            if self.saves_config:
                made = [*outputs, *planned]
                # what was made --as-of another ingest is up to date too: its settings must stay to be seen
                self._save_config(config, workspace, records, made, replace(call, reads_ingested=False))
            inputs = rule.expected_inputs(self.inputs(config), workspace.as_of, records)
            # a stage that reads no table of ingest follows its inputs, whatever --as-of says
            as_of = ingest = None
            if self.reads_ingested:
                as_of = workspace.as_of
                ingest = newest if as_of is None else as_of
            begun = {
                output: Record(
                    self.name,
                    inputs=inputs,
                    settings=settings,
                    data=workspace.resolved_data,
                    files=files,
                    tables=workspace.named_tables,
                    as_of=as_of,
                    ingest=ingest,
                    read={table: version for name in inputs for table, version in records[name].written.items()},
                )
                for output, settings in settings_of(outputs, config).items()
            }
            records.update(begun)
        return begun

    def _save_config(
        self, config: PipelineConfig, workspace: Workspace, records: Records, outputs: Sequence[str], call: rule.Call
    ) -> None:
        """Write ``config.yaml``, which must show what every output was made with that stays up to date."""
        differing: dict[str, list[rule.Reason]] = {}
        for output, record in records.items():
            if not any(record.settings.values()):  # it was not asked for, and nothing was made with other settings
                continue
            # what is made now, and what is made from it, will have the settings of this call
            if set(rule.lineage([output], records, call)).isdisjoint(outputs):
                outdated = rule.find_outdated([output], records, call)
                if {reason.kind for reasons in outdated.values() for reason in reasons} == {"settings"}:
                    differing |= outdated
        if not differing:
            path, text = workspace.out / CONFIG, to_yaml(config)
            # stages that start at once find the file that an earlier one wrote, and need not all write the same
            if not path.exists() or path.read_bytes() != text.encode():
                write_text(path, text)
        elif self.name in SETTINGS:  # its own settings would not be shown
            raise rule.refusal(self.name, differing)
        else:
            log.info("config.yaml stays as it is, with the settings of %s", ", ".join(differing))


EVENTS = ("ingest", "split")
"""What a stage needs that reads typed events up to a cutoff."""
STAGES = (
    Stage("ingest", "source files -> typed events, quarantine"),
    Stage("split", "window boundaries and the clients to profile", needs=("ingest",), reads_ingested=True),
    Stage(VOCABULARY, "items -> token ids", needs=EVENTS, reads_ingested=True),
    Stage(
        "sequences",
        "each client's last token ids, in event order",
        needs=("ingest", "split", "vocabulary"),
        reads_ingested=True,
    ),
    Stage(
        "train", "the encoders of the configuration", needs=("vocabulary", "sequences"), opens=("models", "checkpoints")
    ),
    Stage("baseline", "the organisers' aggregated features as a block", needs=EVENTS, reads_ingested=True),
    Stage("counters", "what each client did, how often and when, as blocks", needs=EVENTS, reads_ingested=True),
    Stage("factorisation", "factors of clients by categories and pages, as blocks", needs=EVENTS, reads_ingested=True),
    Stage(
        "graph",
        "vectors of clients by what they bought and added, as a block",
        needs=EVENTS,
        reads_ingested=True,
        opens=("models",),
        encoder="graph.item_encoder",
    ),
    Stage("interactions", "crosses of each client's counters, as a block", needs=EVENTS, reads_ingested=True),
    Stage(
        "embed",
        "each client's vectors, a block per encoder",
        needs=("split", "vocabulary", "sequences", "train"),
        opens=("models",),
    ),
    Stage(
        "profile",
        "profiles composed of blocks, and their entries",
        needs=("split", "baseline", "counters", "factorisation", "graph", "interactions", "embed"),
        file="profiles",
    ),
    Stage("targets", "labels per task, window and client", needs=EVENTS, needs_targets=True, reads_ingested=True),
    Stage(
        "probe",
        "scores of every entry on the six tasks",
        needs=("split", "profile", "targets"),
        needs_targets=True,
        opens=("entries",),
    ),
    Stage(
        "report",
        "score table and report.html",
        needs=(
            "ingest",
            "split",
            "vocabulary",
            "sequences",
            "train",
            "baseline",
            "counters",
            "factorisation",
            "graph",
            "interactions",
            "embed",
            "profile",
            "probe",
        ),
    ),
)
STAGE_NAMES = [stage.name for stage in STAGES]


def settings_of(outputs: Iterable[str], config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """Output -> dotted setting -> value, of those that it depends on, see ``SETTINGS``."""
    values = dict(flat_settings(asdict(config)))
    values |= {f"ensemble.blocks.{name}": name in config.ensemble.named_blocks for name in ON_REQUEST}
    for name, stream in config.streams().items():
        values[f"streams.{name}.max_length"] = stream.max_length
        # without what says nothing, so that a table of an earlier version is not taken for another one
        values |= {f"streams.{name}.{key}": value for key, value in stream.own_settings().items()}
    if config.feed.shuffle_buffer_mib == FeedSettings().shuffle_buffer_mib:
        values[SHUFFLE_BUFFER] = None  # models of an earlier version have no such setting and count as of the default
    # an input as one value: a column that it does not have any more would have no key of its own
    values = {key: value for key, value in values.items() if not key.startswith("mapping.inputs.")}
    for name, own_input in config.mapping.inputs.items():
        values[f"mapping.inputs.{name}"] = {key: value for key, value in asdict(own_input).items() if value}
    effective = values.keys() - _matching(values, WITHOUT_EFFECT)
    settings = {}
    for output in outputs:
        stage, encoder = rule.stage_of(output), output.removeprefix(MODELS)
        patterns = [pattern.format(encoder=encoder) for pattern in SETTINGS.get(stage, ())]
        # how a model is read does not change its weights: that is a setting of ``embed``
        left_out = ["encoders.*.inference.*"] if stage == rule.TRAIN else []
        own = (_matching(values, patterns) & effective) - _matching(values, left_out)
        asks = [pattern for pattern in patterns if pattern.startswith(ASKS)]
        if asks and not any(values[each] for each in asks):  # what makes nothing depends on nothing else
            own = set(asks)
        settings[output] = {key: value for key, value in values.items() if key in own}
    return settings


def describe_call(
    config: PipelineConfig, workspace: Workspace, reads_ingested: bool, records: Records | None = None
) -> rule.Call:
    """What the records of an output directory are compared with.

    Parameters
    ----------
    records : whose files, of the data and of their own, are compared with those that are there now; None compares none
    """
    from jobs.inputs.data_files import describe_files  # not at the top: numpy and pyarrow would slow `ubp --help`

    needs = {
        output: stage.inputs(config)
        for stage in STAGES
        if not stage.is_left_out(config)
        for output in stage.outputs(config)
    }
    return rule.Call(
        needs,
        settings_of(needs, config),
        workspace.resolved_data,
        describe_files(workspace.challenge, {source for record in (records or {}).values() for source in record.files}),
        workspace.named_tables,
        workspace.as_of,
        reads_ingested,
        find_gone(workspace, records or {}),
    )


def find_gone(workspace: Workspace, records: Records) -> dict[str, list[str]]:
    """Output -> the folders and files that were written with it and are not there, or not whole, now."""
    gone = {
        output: [folder for folder in record.folders if not workspace.has_output(folder)]
        for output, record in records.items()
    }
    return {output: folders for output, folders in gone.items() if folders}


def find_stage(name: str) -> Stage:
    """The stage of this name."""
    return STAGES[STAGE_NAMES.index(name)]


def _end(workspace: Workspace, begun: Records, lines: Sequence[Mapping[str, Any]]) -> None:
    """Record that outputs are made, with the tables that the stage's lines of ``metrics.jsonl`` name."""
    read = {line["read"]: line["read/version"] for line in lines if "read" in line}
    tables = [line for line in lines if "table/version" in line]
    rows: dict[str, int] = {}
    written: dict[str, int] = {}
    for line in tables:  # a table may be written in parts, from several threads
        rows[line["table"]] = rows.get(line["table"], 0) + line["table/rows"]
        written[line["table"]] = max(written.get(line["table"], 0), line["table/version"])
    folders = [folder for line in lines for folder in line.get("folders", ())]
    ingests = [line["table/ingest"] for line in tables if line.get("table/ingest") is not None]
    with changed_records(workspace) as records:
        for output, record in begun.items():
            records[output] = replace(
                record,
                made=utc_now(),
                ingest=max(ingests, default=record.ingest),
                read=record.read | read,
                written=written,
                rows=rows,
                # of the models, each is an output of its own
                folders=[folder for folder in folders if folder == output or not output.startswith(MODELS)],
            )


def _matching(keys: Collection[str], patterns: Collection[str]) -> set[str]:
    return {key for pattern in patterns for key in fnmatch.filter(keys, pattern)}
