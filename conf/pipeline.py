"""All settings of a run."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from conf.encoders import EncoderSettings, ModelSettings, SectionSettings
from conf.evaluation import ProbeSettings
from conf.factorisation import FactorisationSettings
from conf.graph import GraphSettings
from conf.inputs import BehaviourSettings, IngestSettings, WindowSettings, is_identifier
from conf.interactions import InteractionSettings
from conf.mappings import CODES, IDS, ITEM, PRODUCTS, MappingSettings
from conf.profile import EnsembleSettings
from conf.ranges import Seed, require
from conf.report import TrackingSettings
from conf.sequences import SequenceSettings, Stream
from conf.spark import SparkSettings
from conf.training import FeedSettings
from schemas import tables
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.blocks import ACTIVITY, ALL, BASELINE, ENSEMBLE, GRAPH, ON_REQUEST, RESERVED
from schemas.columns import SKU, URL
from schemas.tables import TableSchema, events_table

# a behaviour's events are a table of its name, in the same folder or schema as these
OUR_TABLES = [table.name for table in vars(tables).values() if isinstance(table, TableSchema)]


@dataclass(frozen=True)
class PipelineConfig(SectionSettings):
    """All settings of a run; ``config.yaml`` in its output holds the resolved values."""

    behaviours: dict[str, BehaviourSettings] = field(kw_only=True)
    seed: Seed = 2025
    ingest: IngestSettings = field(default_factory=IngestSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    sequences: SequenceSettings = field(default_factory=SequenceSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    feed: FeedSettings = field(default_factory=FeedSettings)
    factorisation: FactorisationSettings = field(default_factory=FactorisationSettings)
    graph: GraphSettings = field(default_factory=GraphSettings)
    interactions: InteractionSettings = field(default_factory=InteractionSettings)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    spark: SparkSettings = field(default_factory=SparkSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    mapping: MappingSettings = field(default_factory=MappingSettings)
    encoders: dict[str, EncoderSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(len(self.behaviours) > 0, "behaviours is empty: name at least one, as conf/report.yaml does")
        _require_names("behaviours", self.behaviours, (*OUR_TABLES, *RESERVED, ALL))
        _require_names("encoders", self.encoders, RESERVED)
        for name, encoder in self.encoders.items():
            self._check_encoder(name, encoder)
        self._check_mapping()
        self._check_blocks()
        self._check_mean()
        self._check_graph()
        # all that there may be: who leaves a block out need not take out what the configuration says of it
        blocks = dict.fromkeys([*self.encoders, ACTIVITY, BASELINE, *ON_REQUEST, *self.ensemble.named_blocks])
        unknown = [name for name in self.ensemble.stacking if name not in blocks]
        require(
            not (unknown and self.encoders),  # while a file is read, encoders come last
            f"ensemble.stacking: expected names of blocks, {', '.join(blocks)}; found {', '.join(unknown)}",
        )

    def _check_blocks(self) -> None:
        """Refuse names of further blocks that others have, or that differ from others' by case alone."""
        taken = [name.lower() for name in (*self.encoders, ENSEMBLE, *([ACTIVITY] if self.ensemble.activity else []))]
        for name, folder in self.ensemble.named_blocks.items():
            require(
                # an imported entry may not have a name of ours; a block of the run has one
                name.lower() not in (*taken, *(RESERVED if folder else ())),
                f"ensemble.blocks: block {name!r}: another block or profile of the run has this name; give it a name "
                "of its own",
            )
            taken.append(name.lower())
            # a block of a stage that is not ours may have any other name
            meant = name.lower() if name.lower() in (BASELINE, *ON_REQUEST) else name
            require(name == meant, f"ensemble.blocks: expected the block {meant}, found {name}; correct it")

    def _check_mean(self) -> None:
        """Refuse a mean of vectors of unequal widths."""
        stacking, widths = self.ensemble.stacking, set()
        for name, encoder in self.encoders.items():
            most = stacking[name].max_columns if name in stacking else None
            widths.add(min(encoder.hidden_size, most or encoder.hidden_size))
        require(
            self.ensemble.composition != "mean" or len(widths) <= 1,
            f"ensemble.composition=mean: expected encoders of one hidden_size, found {sorted(widths)}; use concat, or "
            "leave encoders out (encoders.NAME=null)",
        )

    def _check_encoder(self, name: str, encoder: EncoderSettings) -> None:
        unknown = [behaviour for behaviour in encoder.behaviours if behaviour not in self.behaviours]
        require(
            not unknown,
            f"encoders.{name}.behaviours: expected names of behaviours, {', '.join(self.behaviours)}; found {unknown}",
        )
        if encoder.is_merged:
            self._check_merged(name, encoder)
        # a longer sequence would have no width to be padded to
        widest = self.sequences.widths[-1]
        require(
            encoder.max_length <= widest,
            f"encoders.{name}.max_length ({encoder.max_length}) exceeds the widest of sequences.widths, {widest}",
        )
        columns = sorted({self.behaviours[behaviour].item for behaviour in encoder.behaviours})
        for head, column in (("url", URL), ("item", SKU)):
            require(
                column in columns or encoder.objective != "next_event" or not getattr(encoder.next_event, head),
                f"encoders.{name}.next_event.{head}: expected a behaviour whose item is {column}, found the items "
                f"{', '.join(columns)}; set it to false",
            )
        require(
            encoder.objective != "reconstruction" or not {SKU, URL}.isdisjoint(columns),
            f"encoders.{name}.objective=reconstruction: expected a behaviour whose item is sku or url, found the items "
            f"{', '.join(columns)}; name one, or choose another objective",
        )
        if encoder.table == "semantic":
            self._require_codes(name, encoder, columns)
        require(
            encoder.attention == "bidirectional" or encoder.inference.pooling != "mask",
            f"encoders.{name}: inference.pooling=mask needs attention=bidirectional: causal models never see MASK",
        )

    def _require_codes(self, name: str, encoder: EncoderSettings, columns: Collection[str]) -> None:
        """Refuse a table of codes where no item has any: it would be a hashed one."""
        inputs = self.mapping.inputs
        if inputs and not inputs.keys() >= set(encoder.behaviours):
            return  # those without an input are yet to be left out, by ``restricted_to``
        # the challenge's products all have names
        has_names = not inputs or (PRODUCTS in inputs and inputs[PRODUCTS].name is not None)
        has_queries = any(ItemKind(self.behaviours[each].kind) is ItemKind.CODES for each in encoder.behaviours)
        found, fix = f"the items {', '.join(columns)}", "name a behaviour of them"
        if not has_names:
            found, fix = f"{found} and the inputs {', '.join(inputs)} without a name", f"map the name of {PRODUCTS}"
        require(
            has_queries or (has_names and SKU in columns),
            f"encoders.{name}.table=semantic: expected queries or names of skus, whose codes the table is made of, "
            f"found {found}; {fix}, or set table=hashed",
        )

    def _check_graph(self) -> None:
        """Refuse an encoder of the graph's items that is none, or knows no sku."""
        name = self.graph.item_encoder
        # while a file is read, encoders come last
        if name is None or not self.encoders or GRAPH not in self.ensemble.named_blocks:
            return
        of_skus = [
            each
            for each, encoder in self.encoders.items()
            if any(self.behaviours[behaviour].item == SKU for behaviour in encoder.behaviours)
        ]
        require(
            name in of_skus,
            f"graph.item_encoder: expected an encoder that reads skus, one of {', '.join(of_skus) or 'none'}; found "
            f"{name}; name one of them, or set it to null for vectors that are learnt",
        )

    def _check_mapping(self) -> None:
        """Refuse inputs of behaviours that are none, and items of another kind than the behaviour's."""
        owner = f"mapping {self.mapping.name}: inputs"
        for name in self.mapping.behaviours:
            known = f"{PRODUCTS} and behaviours of the configuration, {', '.join(self.behaviours)}"
            require(
                name in self.behaviours,
                f"{owner}: expected {known}; found {name!r}; add it under behaviours, or rename it",
            )
            form, kind = self.mapping.inputs[name].columns[ITEM].as_, self.behaviours[name].kind
            forms = IDS if ItemKind(kind) is ItemKind.ID else CODES
            expected = f"{', '.join(forms)}, for behaviours.{name}.kind is {kind}"
            require(form in (None, *forms), f"{owner}.{name}.item.as: expected {expected}; found {form}")
        is_judged = self.ingest.unknown_sku == "quarantine" and bool(self.mapping.inputs)
        require(
            not is_judged or PRODUCTS in self.mapping.inputs,
            f"{owner}: ingest.unknown_sku=quarantine: expected {PRODUCTS} among the inputs, found none",
        )

    def _check_merged(self, name: str, encoder: EncoderSettings) -> None:
        require(
            name.lower() not in map(str.lower, self.behaviours),
            f"encoders.{name}: expected another name than a behaviour's for an encoder that reads "
            f"{', '.join(encoder.behaviours)}: their merged sequences have the encoder's name; rename it",
        )
        # items of one name share keys in the stream's vocabulary (merge_counts in jobs/transforms/vocabulary.py)
        kinds = {(self.behaviours[behaviour].item, self.behaviours[behaviour].kind) for behaviour in encoder.behaviours}
        items = [item for item, _ in sorted(kinds)]
        require(
            len(items) == len(set(items)),
            f"encoders.{name}.behaviours: expected items of one name to be of one kind, found {sorted(kinds)}; rename "
            "the item's column in one of the behaviours",
        )

    def stream(self, encoder: str) -> str:
        """Name of the sequences that an encoder reads.

        Its behaviour's, which encoders of one behaviour share; its own where it merges several.
        """
        settings = self.encoders[encoder]
        return encoder if settings.is_merged else settings.behaviours[0]

    def streams(self) -> dict[str, Stream]:
        """The sequences that the encoders read, by name: as long as the longest that reads them asks for."""
        streams: dict[str, Stream] = {}
        for encoder, settings in self.encoders.items():
            name = self.stream(encoder)
            former = streams.get(name)
            length = max(settings.max_length, former.chunk_length if former else 0)
            streams[name] = Stream(
                name,
                settings.behaviours,
                max_length=length * settings.history_chunks,
                chunk_length=length,
                has_events=settings.reads_events or (former is not None and former.has_events),
                drops_repeats=settings.drop_repeats and settings.is_merged,
            )
        return streams

    def merged_streams(self) -> dict[str, Stream]:
        """Those of ``streams`` that have vocabularies of their own."""
        return {name: stream for name, stream in self.streams().items() if stream.is_merged}

    def counted_streams(self) -> list[str]:
        """Those of ``streams`` that hold an event once: merged ones hold those of behaviours again, unless all are."""
        streams = self.streams()
        return [name for name, stream in streams.items() if not stream.is_merged] or list(streams)

    def restricted_to(self, *behaviours: str) -> "PipelineConfig":
        """The same settings with some behaviours only, their inputs, and the encoders that read them.

        An encoder of several behaviours reads those of them that are left, where there are two or more.
        """
        inputs = {name: of for name, of in self.mapping.inputs.items() if name in (*behaviours, PRODUCTS)}
        left = {
            name: tuple(behaviour for behaviour in of.behaviours if behaviour in behaviours)
            for name, of in self.encoders.items()
        }
        encoders = {
            name: of.reading(left[name], {self.behaviours[behaviour].item for behaviour in left[name]})
            for name, of in self.encoders.items()
            # a merged encoder needs two behaviours, any other one
            if len(left[name]) > of.is_merged
        }
        gone = self.encoders.keys() - encoders.keys()
        # what was said of an encoder that is left out goes with it
        stacking = {name: of for name, of in self.ensemble.stacking.items() if name not in gone}
        item_encoder = None if self.graph.item_encoder in gone else self.graph.item_encoder
        return replace(
            self,
            # a mapping without purchases would be refused
            mapping=replace(self.mapping, inputs=inputs if PRODUCT_BUY in behaviours else {}),
            behaviours={name: of for name, of in self.behaviours.items() if name in behaviours},
            encoders=encoders,
            ensemble=replace(self.ensemble, stacking=stacking),
            graph=replace(self.graph, item_encoder=item_encoder),
        )

    def behaviour(self, name: str) -> BehaviourSettings:
        """The settings of a behaviour that a stage cannot do without; ConfigError where the configuration lacks it."""
        found = ", ".join(self.behaviours)
        fix = "add it under behaviours, as conf/report.yaml does"
        require(name in self.behaviours, f"expected the behaviour {name} in the configuration, found {found}; {fix}")
        return self.behaviours[name]

    def events_tables(self) -> dict[str, TableSchema]:
        """Behaviour -> the table of its typed events."""
        return {name: self.events_table(name) for name in self.behaviours}

    def events_table(self, behaviour: str) -> TableSchema:
        """The table of one behaviour's typed events; ConfigError where the configuration lacks the behaviour."""
        settings = self.behaviour(behaviour)
        return events_table(behaviour, settings.item, ItemKind(settings.kind))


def _require_names(section: str, names: Collection[str], ours: Collection[str]) -> None:
    """Refuse names that are ours or one another's, whatever their case: catalogs and some file systems ignore it."""
    for name in names:
        require(is_identifier(name), f"{section}: a name has letters, digits, _; found {name!r}; rename it")
        require(
            name.lower() not in ours,
            f"{section}: {name!r} is the name of a table, a block or a profile of ubp's own, or of all behaviours; "
            "rename it",
        )
        alike = [other for other in names if other.lower() == name.lower()]
        require(
            len(alike) == 1, f"{section}: {' and '.join(alike)} differ by case alone, which catalogs ignore; rename one"
        )
