"""The settings of a run: frozen, typed, checked on construction. The files beside this one fill them.

Values marked *report* are those of "Ensemble BERT4Rec for the RecSys 2025 Challenge"; values marked
*challenge* are the organisers' and change the meaning of a score.
"""

import re
from dataclasses import field, replace
from datetime import datetime
from typing import Annotated, Literal

try:
    from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
    from pydantic.dataclasses import dataclass
except ModuleNotFoundError:  # ml alone, on a machine with torch and numpy
    from conf.unchecked import (  # type: ignore[assignment,no-redef]
        ConfigDict,
        Field,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        dataclass,
    )

from schemas.behaviours import ItemKind
from schemas.errors import ConfigError
from schemas.tables import TableSchema, events_table
from schemas.tokens import FIRST_ITEM

Share = Annotated[float, Field(ge=0.0, le=1.0)]

_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _is_identifier(text: str) -> bool:
    """Whether a name may stand in SQL text and in a path as it is."""
    return re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) is not None


def _is_time(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}( \d{2}:\d{2}:\d{2})?", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, config=_CHECKED)
class BehaviourSettings:
    """One behaviour of the data set: its source file is ``<name>.parquet``, and one model is trained on it."""

    item: str
    """Column of the source file that holds the item."""
    kind: Literal["id", "codes"] = "id"
    """``id`` (int64) or ``codes`` (16 numbers in brackets; each distinct query is one item)."""
    max_sequence_length: PositiveInt = 64
    """Most recent events kept per client."""
    min_count: PositiveInt = 1
    """Items with fewer input events are rare: they have no row in the vocabulary."""
    keep_rare_as_unk: bool = False
    """Keep events of rare items as UNK instead of dropping them (the *report* drops them)."""

    def __post_init__(self) -> None:
        _require(_is_identifier(self.item), f"item must be a column's name of letters, digits, _; found {self.item!r}")


@dataclass(frozen=True, config=_CHECKED)
class IngestSettings:
    """Which source rows become events; the rules that need no setting are in ``schemas/tables.py``."""

    earliest: str = "2000-01-01"
    """Events before this time are quarantined; ``yyyy-MM-dd``, with or without `` HH:mm:ss``."""
    latest: str = "2100-01-01"
    """Events at or after this time are quarantined."""
    unknown_sku: Literal["keep", "quarantine"] = "keep"
    """What becomes of events whose sku is not in ``product_properties``."""
    drop_duplicates: bool = False
    """Keep one of several equal events; the challenge's data holds them, so they are kept and counted."""
    count_duplicates: bool = True
    """Count the equal events of each behaviour; needs one more look at each written table."""

    def __post_init__(self) -> None:
        for name, text in (("earliest", self.earliest), ("latest", self.latest)):
            _require(_is_time(text), f"ingest.{name} must be yyyy-MM-dd or yyyy-MM-dd HH:mm:ss; found {text!r}")
        bounds = f"ingest.earliest ({self.earliest}) must come before ingest.latest ({self.latest})"
        _require(datetime.fromisoformat(self.earliest) < datetime.fromisoformat(self.latest), bounds)


@dataclass(frozen=True, config=_CHECKED)
class WindowSettings:
    """Which events a profile may see, and the windows that it is judged on."""

    mode: Literal["evaluate", "entry"] = "evaluate"
    """``evaluate``: events before the train target window; ``entry``: all events, as a competition entry."""
    target_days: PositiveInt = 14
    """Days in each of the two target windows (*challenge*)."""


@dataclass(frozen=True, config=_CHECKED)
class SequenceSettings:
    """How ``tables/sequences`` is laid out for the feed."""

    widths: tuple[PositiveInt, ...] = (1, 4, 8, 16, 32, 64, 128)
    """Batch widths; a sequence goes to the smallest that holds it. Rows of width 1 are not trained on."""
    held_out_share: Share = 0.01
    """Share of clients, chosen by a hash of id and seed, whose last item is kept for validation."""
    rows_per_file: PositiveInt = 200_000
    """Rows of one file, the unit that is dealt out to ranks."""
    row_group_mib: PositiveInt = 4
    """Size of a row group (stored, compressed), the unit that a rank decodes and shuffles: small ones cost little."""
    broadcast_max_mib: PositiveInt = 256
    """Vocabularies up to this size in memory go to every executor; events are shuffled by item to larger ones."""

    def __post_init__(self) -> None:
        rising = list(self.widths) == sorted(set(self.widths)) and self.widths[:1] == (1,)
        _require(rising, f"sequences.widths must start with 1 and rise; found {list(self.widths)}")


@dataclass(frozen=True, config=_CHECKED)
class ModelSettings:
    """BERT4Rec's shape (Sun et al. 2019); the values are the *report*'s."""

    hidden_size: PositiveInt = 256
    n_layers: PositiveInt = 6
    n_heads: PositiveInt = 8
    feed_forward_size: PositiveInt = 256
    """Width inside the feed-forward; 4 x ``hidden_size`` in BERT."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    """``bidirectional``: a token sees all others, hidden ones are learnt (the cloze task); ``causal``: it sees those
    before it, and each token's next one is learnt (SASRec, Kang and McAuley 2018); ``masking`` is not used then."""
    norm: Literal["post", "pre"] = "post"
    """``post``: sums are normalised; ``pre``: what a layer reads is, which eases deep models (Xiong et al. 2020)."""
    final_norm: bool = False
    """One more norm after the last block; goes with ``pre``."""
    embedding_dropout: Share = 0.2
    encoder_dropout: Share = 0.2
    attention_dropout: Share | None = None
    """Of attention weights; null: as ``encoder_dropout``."""
    table: Literal["full", "hashed", "product"] = "full"
    """``full``: a row per token; ``hashed``: two hashes into fewer; ``product``: parts that items share (RecJPQ)."""
    table_rows: PositiveInt = 100_000
    """Of a hashed table."""
    table_splits: PositiveInt = 8
    """Parts of a vector of a product table; each is one of 256."""

    def __post_init__(self) -> None:
        size = f"model.hidden_size ({self.hidden_size})"
        _require(self.hidden_size % self.n_heads == 0, f"{size} must be divisible by n_heads ({self.n_heads})")
        _require(
            self.table != "product" or self.hidden_size % self.table_splits == 0,
            f"{size} must be divisible by table_splits ({self.table_splits})",
        )
        _require(self.table_rows > FIRST_ITEM, f"model.table_rows must exceed {FIRST_ITEM}; found {self.table_rows}")


@dataclass(frozen=True, config=_CHECKED)
class MaskingSettings:
    """The cloze task; what is neither replaced by MASK nor by a random item stays as it is (*report*: 80/10/10)."""

    mask_prob: Share = 0.15
    mask_share: Share = 0.8
    random_share: Share = 0.1
    last_only_share: Share = 0.1
    """Share of sequences that hide their last item alone: how the model is asked to predict."""

    def __post_init__(self) -> None:
        total = self.mask_share + self.random_share
        _require(total <= 1.0 + 1e-9, f"masking.mask_share + random_share must be at most 1; found {total}")


@dataclass(frozen=True, config=_CHECKED)
class LossSettings:
    """What is made small at the hidden positions: over every item, or over negatives that a step's positions share."""

    name: Literal["auto", "full", "sampled", "gbce"] = "auto"
    """``auto``: full softmax up to ``full_softmax_max_items`` items, sampled above; ``gbce``: of gSASRec."""
    full_softmax_max_items: PositiveInt = 20_000
    n_negatives: PositiveInt = 2048
    """Uniform negatives drawn once per step and shared by its positions."""
    gbce_t: Share = 0.75
    """Calibration of gBCE: 0 is plain binary cross-entropy, 1 undoes what sampling adds to the scores."""


_WITHOUT_EFFECT_ON_WEIGHTS = (
    "launcher",
    "network_interfaces",
    "stall_seconds",
    "max_restarts",
    "threads_per_rank",
    "checkpoint_every_steps",
    "log_every_steps",
    "tensorboard",
)


@dataclass(frozen=True, config=_CHECKED)
class TrainingSettings:
    """The data-parallel run and its optimiser (*report*: AdamW 1e-4, step decay, clip 1)."""

    n_ranks: PositiveInt = 2
    """Processes that train together, one Spark task each; 1 trains in the driver, without a launcher."""
    launcher: Literal["horovod", "torch"] = "horovod"
    """What starts the ranks and exchanges their gradients: Horovod on Spark, or Spark's TorchDistributor with
    torch.distributed (gloo on a CPU, nccl on a GPU). Both give the same weights."""
    network_interfaces: tuple[str, ...] = ()
    """Of all hosts alike, that Horovod's ranks and their driver talk over, such as ``eth0``; empty: those found to work
    from each to each. TorchDistributor takes the address that Spark's executors have."""
    stall_seconds: PositiveFloat = 600.0
    """Ranks that get no batch for so long are ended: more than a step, the wait for its batch and a checkpoint take."""
    max_restarts: NonNegativeInt = 2
    """Times that ranks which died or stalled are started again, from the last checkpoint."""
    threads_per_rank: PositiveInt = 1
    """Torch's CPU threads in each rank."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU where torch, and the launcher if there is one, can use one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: matrix products by autocast; weights, sums, norms and losses stay float32."""
    compile: bool = False
    """Compile the encoder by ``torch.compile``: a minute or so at the start, needs a C++ compiler."""
    epochs: PositiveInt = 10
    tokens_per_batch: PositiveInt = 4096
    """Positions, padding included, in one rank's batch: its rows are this divided by its width."""
    batches_per_step: PositiveInt = 1
    """Batches whose gradients are summed before the optimisers' step."""
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: NonNegativeInt = 0
    """Steps in which the learning rate rises from 0 in a straight line."""
    decay: Literal["step", "cosine"] = "step"
    """``step``: times ``decay_factor`` after each epoch; ``cosine``: to 0 over the whole run (Loshchilov and Hutter
    2017, without restarts)."""
    decay_factor: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.01
    """On matrices only: never on item and position tables, norms or biases."""
    clip_norm: PositiveFloat = 1.0
    patience: PositiveInt | None = None
    """Stop after so many epochs without a better NDCG@10 of the held-out clients; null never stops early."""
    rank_seen_items: bool = True
    """Whether validation ranks items that the client's sequence holds already."""
    checkpoint_every_steps: PositiveInt = 1000
    """A killed run goes on from its last checkpoint; each epoch ends with one too."""
    log_every_steps: PositiveInt = 50
    tensorboard: bool = False
    """Write the figures of ``metrics.jsonl`` as TensorBoard files too."""

    def of_weights(self) -> "TrainingSettings":
        """These settings, but for those that the weights do not depend on: they are the default's."""
        default = TrainingSettings()
        kept = {name: getattr(default, name) for name in _WITHOUT_EFFECT_ON_WEIGHTS}
        return replace(self, **kept)


@dataclass(frozen=True, config=_CHECKED)
class FeedSettings:
    """How a rank reads its files through Petastorm."""

    shuffle_buffer_mib: PositiveFloat = 32.0
    """Padded rows of one width mixed in memory before batches are cut, over and above the shuffled order of row
    groups; in MiB as ``sequences.row_group_mib``, so that rows of about as many row groups meet at every width."""
    batches_ahead: NonNegativeInt = 64
    """Batches made by a thread while the step computes; with 0 the step waits for each."""


@dataclass(frozen=True, config=_CHECKED)
class InferenceSettings:
    """The Spark inference job."""

    pooling: Literal["mean", "recency", "last", "mask"] = "mean"
    """What a sequence's vector is: the mean of its tokens' (*report*); a mean in which older tokens count less; the
    last token's; or that of a MASK put after it, which is what the model would predict the next item from."""
    half_life: PositiveFloat = 8.0
    """With ``recency``, a token counts half as much as the one so many events later."""
    append_activity: bool = False
    """Append log(1 + n) of the client's events in the behaviour, and of those of its last ``activity_days``: how many
    there were, and how recent, which no mean of token vectors tells."""
    activity_days: tuple[PositiveInt, ...] = (7, 14, 28, 90)
    """Lengths of the windows that end where the input ends."""
    tokens_per_batch: PositiveInt = 2048
    """Positions, padding included, in one forward pass."""
    clients_per_partition: PositiveInt = 20_000


@dataclass(frozen=True, config=_CHECKED)
class EnsembleSettings:
    """How blocks of vectors, one per behaviour and those of other entries, become one profile."""

    composition: Literal["concat", "mean"] = "concat"
    """``mean`` is over the behaviours that a client has; further entries stand beside it."""
    scaling: Literal["none", "block", "column"] = "none"
    """Of the behaviours' blocks. ``block``: take away each column's mean, divide by the block's standard deviation;
    ``column``: by each column's own. Means and deviations are of the clients that have the block."""
    absent: Literal["zeros", "mean"] = "zeros"
    """What stands for a block that a client lacks, before scaling: zeros (*report*) or the block's mean."""
    presence_flags: bool = True
    """Append one number per block, 1 where the client has it."""
    max_width: PositiveInt = 2048
    """Most columns of a profile (*challenge*); above it, blocks are projected on their principal axes."""
    blocks: tuple[str, ...] = ()
    """Further entries, as ``NAME`` or ``NAME=DIR``: with any, the embed stage also makes ``ensemble+NAME``."""
    blocks_scaling: Literal["none", "block", "column"] = "column"
    """As ``scaling``, of the further entries."""
    blocks_weight: PositiveFloat = 1.0
    """Multiplies the further entries' numbers after that: the wider a column's values spread, the more a probe sees of
    it, and hundreds of them drown what else a profile holds."""
    log_blocks: bool = True
    """Take sign(x) log(1 + |x|) of the further entries' numbers first: counts have heavy tails."""

    def __post_init__(self) -> None:
        named = [re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII) is not None for name in self.named_blocks]
        _require(
            all(named) and len(named) == len(self.blocks),
            "ensemble.blocks must be NAME or NAME=DIR, each name once, of letters, digits, _, . and -; "
            f"found {list(self.blocks)}",
        )

    @property
    def named_blocks(self) -> dict[str, str]:
        """Name of each of ``blocks`` -> its folder, empty for an entry of this run."""
        return {name: folder for name, _, folder in (block.partition("=") for block in self.blocks)}


@dataclass(frozen=True, config=_CHECKED)
class ProbeSettings:
    """The fixed network that scores an entry; the defaults are the *challenge*'s."""

    hidden_size: PositiveInt = 2048
    """Width between blocks; each block expands to twice this."""
    n_blocks: PositiveInt = 3
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 128
    epochs: PositiveInt = 3
    seed: NonNegativeInt = 1278
    repeats: PositiveInt = 1
    """The first is the organisers' run and gives the score; each further one has other weights and another order of
    rows, and together they give the mean and the standard deviation."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the matrix products between the first and the last layer. ``tf32`` is a GPU's; a CPU keeps float32."""

    @property
    def is_official(self) -> bool:
        """Whether scores are comparable with the challenge's."""
        return self == ProbeSettings(repeats=self.repeats)


@dataclass(frozen=True, config=_CHECKED)
class TrackingSettings:
    """Where a finished run is told of, beside ``OUT``."""

    mlflow: bool = False
    """The stage ``report`` makes an MLflow run: settings, figures, scores, the report as an artifact."""
    experiment: str = "ubp"
    """MLflow's; on Databricks a path, such as ``/Shared/ubp``."""


@dataclass(frozen=True, config=_CHECKED)
class SparkSettings:
    """The session, where spark-submit or the platform has not made one."""

    master: str = "local[*]"
    driver_memory: str = "4g"
    shuffle_partitions: PositiveInt = 200


@dataclass(frozen=True, config=_CHECKED)
class PipelineConfig:
    """Everything a run can be told; ``config.yaml`` in its output holds the resolved values."""

    behaviours: dict[str, BehaviourSettings]
    seed: NonNegativeInt = 2025
    ingest: IngestSettings = field(default_factory=IngestSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    sequences: SequenceSettings = field(default_factory=SequenceSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    feed: FeedSettings = field(default_factory=FeedSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    spark: SparkSettings = field(default_factory=SparkSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _require(len(self.behaviours) > 0, "behaviours is empty: name at least one, as conf/report.yaml does")
        widest = self.sequences.widths[-1]
        for name, behaviour in self.behaviours.items():
            _require(_is_identifier(name), f"behaviours: a name has letters, digits, _; found {name!r}; rename it")
            fits = behaviour.max_sequence_length <= widest
            _require(fits, f"behaviours.{name}.max_sequence_length exceeds the widest of sequences.widths, {widest}")
        knows_mask = self.model.attention == "bidirectional" or self.inference.pooling != "mask"
        _require(knows_mask, "inference.pooling=mask needs model.attention=bidirectional: causal models never see MASK")

    def behaviour(self, name: str) -> BehaviourSettings:
        """The settings of a behaviour that a stage cannot do without; ConfigError where the configuration lacks it."""
        found = ", ".join(self.behaviours)
        mend = "add it under behaviours, as conf/report.yaml does"
        _require(name in self.behaviours, f"expected the behaviour {name} in the configuration, found {found}; {mend}")
        return self.behaviours[name]

    def events_tables(self) -> dict[str, TableSchema]:
        """Behaviour -> the table of its typed events."""
        return {name: self.events_table(name) for name in self.behaviours}

    def events_table(self, behaviour: str) -> TableSchema:
        """The table of one behaviour's typed events; ConfigError where the configuration lacks the behaviour."""
        settings = self.behaviour(behaviour)
        return events_table(behaviour, settings.item, ItemKind(settings.kind))
