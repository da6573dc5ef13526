"""Settings of the probe."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from conf.ranges import PositiveFloat, PositiveInt, Seed, Settings, require
from schemas.tasks import TASKS


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """The fixed network that scores an entry; the defaults are the *challenge*'s."""

    hidden_size: PositiveInt = 2048
    """Width between blocks; each block expands to twice this."""
    n_blocks: PositiveInt = 3
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 128
    epochs: PositiveInt = 3
    seed: Seed = 1278
    repeats: PositiveInt = 1
    """The first is the organisers' run and gives the score; each further one has other weights and another order of
    rows, and together they give the mean and the standard deviation."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the matrix products between the first and the last layer. ``tf32`` is a GPU's; a CPU keeps float32."""
    tasks: tuple[str, ...] = TASKS
    """Those to score. One that cannot be scored is left out with a line."""
    entries: tuple[str, ...] = ()
    """Folders of further entries that the stage scores beside its own, such as ``oracle`` of a simulated shop."""

    def __post_init__(self) -> None:
        is_known = 0 < len(self.tasks) == len({*self.tasks} & {*TASKS})
        require(is_known, f"probe.tasks: expected some of {', '.join(TASKS)}, each once; found {list(self.tasks)}")

    def of_a_score(self) -> dict[str, Any]:
        """The settings that a single score depends on, by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("repeats", "tasks", "entries")}
