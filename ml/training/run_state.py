"""Where a training stands, in one file that is replaced whole, so that a killed run goes on from it.

The file is safetensors: weights and optimiser state as tensors, the position as JSON in its header. Generators need no
entry: they are seeded by the number of steps.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ml.files.regular import require_regular
from ml.files.tensor_file import write_tensors
from ml.metrics.ranking import RankingMetrics
from ml.training.step import Learner
from schemas.errors import TrainingError

log = logging.getLogger(__name__)

MODEL, OPTIMIZER = "model", "optimizer"


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes
    ----------
    epoch : the one being trained, from 1
    n_batches : batches of it that each rank has done, or had no more of
    best_epoch : whose weights are kept so far, 0 for none
    best_metrics : of that epoch on the held-out clients; None where there was none to rank
    """

    epoch: int = 1
    n_batches: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_metrics: RankingMetrics | None = None


def save_run(path: Path, learner: Learner, position: Position, job: str) -> None:
    """Replace the file by where the learner stands; ``job`` is the fingerprint of what is trained."""
    tensors = {f"{MODEL}/{name}": weight for name, weight in learner.encoder.state_dict().items()}
    for number, optimizer in enumerate(learner.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}/{number}/{parameter}/{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # written beside the file and then renamed, so that a kill at any time leaves the run before it or this one
    # always the same name: rank 0 alone writes, and its next write replaces what a kill left
    draft = path.with_name(f".{path.name}.partial")
    header = {"job": job, "n_steps": str(learner.n_steps), "position": json.dumps(asdict(position))}
    write_tensors(draft, tensors, header)
    draft.replace(path)


def load_run(path: Path, learner: Learner, job: str) -> Position:
    """Put the learner where the file's run was, and return the position: the start if there is no run of this job.

    Raises
    ------
    TrainingError
        If the file is damaged.
    """
    if not path.exists():
        return Position()
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata()
            # not an error: settings or data were changed on purpose, and the run begins anew
            if header["job"] != job:
                log.info("  %s is of another configuration or table version: starting anew", path)
                return Position()
            # copied one by one: they are mapped from the file, and a mount may lose what another host replaces
            _restore(learner, ((name, stream.get_tensor(name).clone()) for name in stream.keys()))  # noqa: SIM118
        learner.n_steps = int(header["n_steps"])
        values = json.loads(header["position"])
        metrics = values["best_metrics"] and RankingMetrics(**values["best_metrics"])
        return Position(**{**values, "best_metrics": metrics})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path} is damaged ({error}); remove it to train from the start") from error


def _restore(learner: Learner, tensors: Iterable[tuple[str, Tensor]]) -> None:
    weights: dict[str, Tensor] = {}
    states: list[dict[int, dict[str, Any]]] = [{} for _ in learner.optimizers]
    for path, tensor in tensors:
        kind, *rest = path.split("/")
        if kind == MODEL:
            weights[rest[0]] = tensor
        else:
            number, parameter, name = rest
            states[int(number)].setdefault(int(parameter), {})[name] = tensor
    learner.encoder.load_state_dict(weights)
    # the groups hold settings, which are not saved: this learner's are those of the run, by the job's fingerprint
    for optimizer, state in zip(learner.optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
