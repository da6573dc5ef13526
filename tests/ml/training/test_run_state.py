"""What a checkpoint gives back."""

from dataclasses import replace
from pathlib import Path

import torch
from small_encoders import TINY, batch_of

from conf.training import TrainingSettings
from ml.data.vocabulary import VocabularyDescription
from ml.training.run_state import Position, load_run, save_run
from ml.training.step import Learner

SETTINGS = replace(TINY, training=TrainingSettings(n_ranks=1))


def learner() -> Learner:
    return Learner(SETTINGS, VocabularyDescription(20))


def moments(of: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{number}/{parameter}/{name}": value
        for number, optimizer in enumerate(of.optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def test_nothing_of_a_resumed_run_is_mapped_from_its_file(tmp_path: Path) -> None:
    run, first = tmp_path / "run.safetensors", learner()
    first.step([batch_of([5, 6, 7], [8, 9, 10])])
    save_run(run, first, Position(n_batches=1), "job")
    resumed = learner()
    assert load_run(run, resumed, "job") == Position(n_batches=1)
    with run.open("r+b") as file:  # as on a mount whose file another host replaces
        file.write(bytes(run.stat().st_size))
    assert moments(first).keys() == moments(resumed).keys()
    for name, value in moments(first).items():
        assert value.any()
        assert torch.equal(value, moments(resumed)[name]), name
    for name, weight in first.encoder.state_dict().items():
        assert torch.equal(weight, resumed.encoder.state_dict()[name]), name
