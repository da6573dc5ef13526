"""Settings of the training run, its optimiser and its feed."""

from dataclasses import dataclass, replace
from typing import Literal

from conf.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings

# n_ranks is none of them: a step sums the gradients of a batch from each rank
WITHOUT_EFFECT_ON_WEIGHTS = (
    "launcher",
    "network_interfaces",
    "stall_seconds",
    "max_restarts",
    "threads_per_rank",
    "checkpoint_every_steps",
    "log_every_steps",
    "tensorboard",
)
"""Settings of ``TrainingSettings`` that the weights do not depend on."""


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """The data-parallel run and its optimiser (*paper*: AdamW 1e-4, step decay, clip 1)."""

    n_ranks: PositiveInt | Literal["auto"] = "auto"
    """Processes that train together, one Spark task each; 1 trains in the driver, without a launcher. ``auto``: 1 where
    the driver has a GPU and Spark gives its tasks none, or where the local master has one core; else 2."""
    launcher: Literal["auto", "horovod", "torch"] = "auto"
    """What starts the ranks and exchanges their gradients: Horovod on Spark, or Spark's TorchDistributor with
    torch.distributed (gloo on a CPU, nccl on a GPU). Both give the same weights. ``auto``: Horovod where it is
    installed, unless it was built without CUDA and Spark gives its tasks GPUs."""
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``bfloat16``: matrix products by autocast; weights, sums, norms and losses stay float32. ``auto``: that on a GPU
    that computes it itself (compute capability 8.0 or more)."""
    compile: bool | Literal["auto"] = "auto"
    """Compile a step's loss by ``torch.compile``: a minute or so at the start, needs a C++ compiler. ``auto``: on a
    GPU and packed rows, where steps are recorded as CUDA graphs too."""
    packing: bool | Literal["auto"] = "auto"
    """Train on rows that several short sequences share, all batches of one shape, where encoder and objective take
    such rows. ``auto``: on a GPU."""
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
        # replaced and not left out: a job's fingerprint is a hash of the settings' whole repr
        default = TrainingSettings()
        kept = {name: getattr(default, name) for name in WITHOUT_EFFECT_ON_WEIGHTS}
        return replace(self, **kept)


@dataclass(frozen=True)
class FeedSettings(Settings):
    """How a rank reads its files."""

    reader: Literal["auto", "petastorm", "arrow"] = "auto"
    """``arrow``: by pyarrow alone; batches are those of Petastorm 0.13, byte for byte. ``auto``: Petastorm where it is
    installed."""

    shuffle_buffer_mib: PositiveFloat = 32.0
    """Padded rows of one width mixed in memory before batches are cut, over and above the shuffled order of row
    groups; in MiB as ``sequences.row_group_mib``, so that rows of about as many row groups meet at every width."""
    batches_ahead: NonNegativeInt = 64
    """Batches made by a thread while the step computes; with 0 the step waits for each."""
