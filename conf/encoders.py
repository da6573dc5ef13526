"""Settings of encoders: shape, objective, loss, and how an encoder's vectors are made."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from conf.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Settings, Share, require
from conf.training import WITHOUT_EFFECT_ON_WEIGHTS, TrainingSettings
from schemas.columns import SKU, URL
from schemas.tokens import FIRST_ITEM

Size = Annotated[int, Range(gt=0, le=2**20)]
"""Far above what trains: a model folder that is handed over must not make its reader build for ever."""


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The shape of an encoder (Sun et al. 2019); the values are the *paper*'s."""

    hidden_size: Size = 256
    n_layers: Annotated[int, Range(gt=0, le=1000)] = 6
    n_heads: PositiveInt = 8
    feed_forward_size: Size = 256
    """Width inside the feed-forward; 4 x ``hidden_size`` in BERT."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    """``bidirectional``: a token sees all others, as ``objective: cloze`` needs; ``causal``: it sees those before it,
    as ``objective: next_item`` needs (SASRec, Kang and McAuley 2018)."""
    norm: Literal["post", "pre"] = "post"
    """``post``: sums are normalised; ``pre``: what a layer reads is, which eases deep models (Xiong et al. 2020)."""
    final_norm: bool = False
    """One more norm after the last block; goes with ``pre``."""
    block: Literal["bert", "sasrec", "ligr"] = "bert"
    """Of the transformer. ``bert``: normed as ``norm`` says; ``sasrec``: as SASRec's authors wrote it; ``ligr``: normed
    before, gated, with a SwiGLU feed-forward (eSASRec)."""
    embedding: Literal["normed", "sum", "scaled"] = "normed"
    """Item and position vectors are added and: ``normed``, then normalised and projected; ``sum``, left so; ``scaled``,
    left so, the item's first multiplied by the root of ``hidden_size`` (SASRec, HSTU). Recurrent encoders: none."""
    positions: Literal["event", "basket"] = "event"
    """What positions are counted in, from the newest: events, or a client's days, whose events share one."""
    head: Literal["bert", "none"] = "bert"
    """What makes an output vector of a hidden state: a layer with GELU and a norm (BERT), or nothing."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Of output vectors and items: their product, or their cosine divided by ``temperature``."""
    temperature: PositiveFloat = 0.05
    learn_temperature: bool = False
    """Learn the temperature from there, down to .01 (PinnerFormer)."""
    embedding_dropout: Share = 0.2
    encoder_dropout: Share = 0.2
    attention_dropout: Share | None = None
    """Of attention weights; null: as ``encoder_dropout``."""
    table: Literal["auto", "full", "hashed", "product", "events", "semantic"] = "auto"
    """``full``: a row per token; ``hashed``: two hashes into fewer; ``product``: parts that items share (RecJPQ);
    ``events``: made of an item's hashed id and its attributes (``event_embedding``). ``auto``: ``events`` where several
    behaviours are merged, else ``full``. ``semantic``: parts that items of like names share, and two hashed rows."""
    table_rows: PositiveInt = 100_000
    """Of a hashed table, and of the one that ids and categories of ``events`` share."""
    table_splits: PositiveInt = 8
    """Parts of a vector of a product table; each is one of 256."""
    output_table: Literal["tied", "separate"] = "tied"
    """Whether outputs are compared with the input's item table or with one of their own (gSASRec)."""
    item_bias: bool = True
    """Whether an item has a bias as an output; of full tables and ``similarity: dot``."""

    def __post_init__(self) -> None:
        size = f"model.hidden_size ({self.hidden_size})"
        require(self.hidden_size % self.n_heads == 0, f"{size} must be divisible by n_heads ({self.n_heads})")
        require(
            self.table != "product" or self.hidden_size % self.table_splits == 0,
            f"{size} must be divisible by table_splits ({self.table_splits})",
        )
        # each special token has a row of a hashed table to itself; items share the others
        require(self.table_rows > FIRST_ITEM, f"model.table_rows must exceed {FIRST_ITEM}; found {self.table_rows}")


@dataclass(frozen=True)
class EventEmbeddingSettings(Settings):
    """How events of a merged stream come in: what they are about, and what is known of when and what they were.

    As the fourth place of the challenge has it (``ml/models/event_embedding.py``).
    """

    width: PositiveInt = 256
    """Of each of the three parts that an item is made of: its ids, its price, its name's or query's codes."""
    ids: Literal["concatenate", "mean"] = "concatenate"
    """How the two rows that an id is hashed to become ``width`` columns."""
    context: bool | None = None
    """Whether the five parts below are added to the item; null: where several behaviours are merged, unless
    ``event_columns`` is false."""
    event_type: bool = True
    weekday: bool = True
    hour: bool = True
    since_previous: bool = True
    """The time since the event before."""
    since_first: bool = True
    """The time since the first event of the sequence."""

    def __post_init__(self) -> None:
        is_whole = self.ids == "mean" or self.width % 2 == 0
        require(is_whole, f"event_embedding.width must be even to concatenate two rows; found {self.width}")


@dataclass(frozen=True)
class NextEventSettings(Settings):
    """The heads of ``objective: next_event``, and its negatives."""

    type: bool = True
    """Of which behaviour the next event is."""
    time: bool = True
    """How long it takes until then."""
    url: bool = True
    """Which url it is about, where it is a visit."""
    item: bool = True
    """Which sku it is about, where it has one."""
    in_batch_negatives: PositiveInt = 8192
    """The most targets of its batch that a head's target is compared with."""
    uniform_negatives: PositiveInt = 8192
    """Skus drawn once a step, that the item head's targets are compared with too."""

    def __post_init__(self) -> None:
        is_any = self.type or self.time or self.url or self.item
        require(is_any, "next_event: expected one head or more of type, time, url and item, found all false; set one")


@dataclass(frozen=True)
class ContrastiveSettings(Settings):
    """``objective: contrastive``."""

    future_days: PositiveFloat = 14.0
    """How long after its cut a sequence's future is; the *challenge*'s target windows are as long."""
    temperature: PositiveFloat = 0.02
    """What the cosines of pasts and futures are divided by."""


@dataclass(frozen=True)
class ReconstructionSettings(Settings):
    """``objective: reconstruction``."""

    frequent_items: PositiveInt = 5000
    """Skus, and urls, with classes of their own; all others are one class."""


@dataclass(frozen=True)
class MaskingSettings(Settings):
    """The cloze task; what is neither replaced by MASK nor by a random item stays as it is (*paper*: 80/10/10)."""

    mask_prob: Share = 0.15
    mask_share: Share = 0.8
    random_share: Share = 0.1
    unit: Literal["event", "basket"] = "event"
    """What is masked: events one by one, or all those of a client's day at once."""
    last_only_share: Share = 0.1
    """Share of sequences whose last item alone is masked: how the model is asked to predict."""

    def __post_init__(self) -> None:
        total = self.mask_share + self.random_share
        require(total <= 1.0 + 1e-9, f"masking.mask_share + random_share must be at most 1; found {total}")


@dataclass(frozen=True)
class LossSettings(Settings):
    """The loss at the positions to predict: over every item, or over negatives that a step's positions share."""

    name: Literal["auto", "full", "sampled", "gbce", "bce", "bpr_max"] = "auto"
    """``auto``: full softmax up to ``full_softmax_max_items`` items, sampled above; ``gbce``: of gSASRec; ``bce``: of
    SASRec, each position with one negative of its own; ``bpr_max``: of GRU4Rec."""
    full_softmax_max_items: PositiveInt = 20_000
    n_negatives: PositiveInt = 2048
    """Uniform negatives drawn once per step and shared by its positions."""
    gbce_t: Share = 0.75
    """Calibration of gBCE: 0 is plain binary cross-entropy, 1 undoes what sampling adds to the scores."""
    bpr_regularisation: NonNegativeFloat = 1.0
    """Of BPR-max: weight of the squares of the negatives' scores."""


@dataclass(frozen=True)
class AllActionSettings(Settings):
    """The objective ``all_action`` (PinnerFormer, Pancha et al. 2022)."""

    positions: PositiveInt = 32
    """Drawn of each sequence, each with one target."""
    days: PositiveInt = 28
    """After a position, in which its target lies, where the encoder reads times."""
    events: PositiveInt = 10
    """After a position, among which its target is, where it reads none."""


@dataclass(frozen=True)
class InferenceSettings(Settings):
    """The Spark inference job."""

    pooling: Literal["mean", "recency", "last", "mask"] = "mean"
    """What a sequence's vector is: the mean of its tokens' (*paper*); a mean in which older tokens count less; the
    last token's; or that of a MASK put after it, which is what the model would predict the next item from."""
    half_life: PositiveFloat = 8.0
    """With ``recency``, a token counts half as much as the one so many events later."""
    tokens_per_batch: PositiveInt = 2048
    """Positions, padding included, in one forward pass; packed rows, on a GPU, have a number of their own."""
    clients_per_partition: PositiveInt = 20_000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``bfloat16``: matrix products by autocast; what is summed and written stays float32. ``auto``: by the rule
    of ``training.precision``."""
    compile: bool = False
    """Compile the encoder in each Spark task's process: half a minute or so before the first vector, for runs of
    millions of clients on a GPU."""


@dataclass(frozen=True)
class SectionSettings(Settings):
    """Sections of a configuration that an item of ``encoders`` may change for itself, besides the keys of ``model``."""

    event_embedding: EventEmbeddingSettings = field(default_factory=EventEmbeddingSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    next_event: NextEventSettings = field(default_factory=NextEventSettings)
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    all_action: AllActionSettings = field(default_factory=AllActionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)


SECTIONS = tuple(section.name for section in fields(SectionSettings))
# the ranks start once and train all encoders, one after the other
RUN_WIDE = ("n_ranks", "device", *WITHOUT_EFFECT_ON_WEIGHTS)
"""Settings of ``training`` that all encoders of a run share."""


@dataclass(frozen=True)
class EncoderSettings(SectionSettings, ModelSettings):
    """One encoder: what it reads, what it is, what it is trained on.

    What a configuration leaves out here is taken from its sections (``conf.load``): ``model``, ``event_embedding``,
    ``masking``, ``loss``, those named for an objective, ``training`` and ``inference``. An item of ``encoders`` says
    only what differs from these.
    """

    # by keyword: it has no default, and the fields of the bases before it have
    behaviours: tuple[str, ...] = field(kw_only=True)
    """Whose events it reads; several are merged in time order."""
    # no Literal: the registries say which there are, and conf may not import ml
    architecture: str = "transformer"
    """A name of ``ml.models.registry``."""
    objective: str = "cloze"
    """A name of ``ml.objectives.registry``."""
    max_length: Size = 64
    """Most recent events that it reads of a client."""
    history_chunks: PositiveInt = 1
    """Training cuts the last ``history_chunks`` x ``max_length`` events of a client into consecutive sequences, where
    the encoder reads several behaviours; its vectors are always of the last ``max_length``."""
    drop_repeats: bool = True
    """Where it reads several behaviours: keep one of events of the same client, time, behaviour and item."""
    event_columns: bool | None = None
    """Whether it reads what each event is and when it was, beside its item; null: where it has several behaviours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.behaviours) > 0, "an encoder's behaviours are empty: name at least one")
        require(
            len(set(self.behaviours)) == len(self.behaviours),
            f"an encoder's behaviours: expected each name once, found {list(self.behaviours)}",
        )
        require(
            self.history_chunks == 1 or self.is_merged,
            f"history_chunks: expected 1 for an encoder of one behaviour, found {self.history_chunks}: its sequences "
            "are shared with other encoders; raise max_length",
        )
        require(
            self.table not in ("events", "semantic") or self.is_merged,
            f"table={self.table}: expected several behaviours, whose items have attributes, found "
            f"{list(self.behaviours)}; set table=full, hashed or product",
        )
        counts_days = "basket" in (self.positions, self.masking.unit)
        require(
            self.reads_events or not counts_days,
            "positions=basket, masking.unit=basket: expected an encoder that reads times, for baskets are days; set "
            "event_columns=true",
        )
        require(
            self.reads_events or not self.has_context,
            "event_embedding.context: expected an encoder that reads what its events are; set event_columns=true",
        )

    def reading(self, behaviours: tuple[str, ...], items: Collection[str]) -> "EncoderSettings":
        """The same encoder of some of its behaviours, without heads for items other than theirs (``items``)."""
        if behaviours == self.behaviours:
            return self
        heads = self.next_event
        # a head without an item of its own is refused (conf/pipeline.py)
        heads = replace(heads, url=heads.url and URL in items, item=heads.item and SKU in items)
        return replace(self, behaviours=behaviours, next_event=heads)

    @property
    def is_merged(self) -> bool:
        """Whether it reads several behaviours, merged in a stream of its own."""
        return len(self.behaviours) > 1

    @property
    def table_kind(self) -> str:
        """``table``, with ``auto`` resolved."""
        return self.table if self.table != "auto" else "events" if self.is_merged else "full"

    @property
    def has_context(self) -> bool:
        """Whether what is known of an event beside its item comes in too."""
        chosen = self.event_embedding
        is_any = chosen.event_type or chosen.weekday or chosen.hour or chosen.since_previous or chosen.since_first
        return is_any and (self.is_merged and self.reads_events if chosen.context is None else chosen.context)

    @property
    def reads_events(self) -> bool:
        """Whether its batches have ``event_types`` and ``timestamps``."""
        return self.is_merged if self.event_columns is None else self.event_columns
