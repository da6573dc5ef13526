"""One epoch of the probe against a plain loop over a DataLoader of samples, and what a lower precision changes.

    python benchmarks/probe.py

Random profiles of 20 thousand clients, 1,280 wide, and 100 labels that depend on them; the challenge's network, batch,
order and learning rate on all sides, float32, the labels ready in memory. The plain loop is what a reader of the
rules would write: a Dataset that gives one sample, a DataLoader that stacks them, torch's AdamW with its defaults.
All sides take their steps in turns, so that whatever else the machine does falls on all of them. Prints seconds per
side, the largest difference of the losses of one step, and each side's scores after the epoch.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from conf.evaluation import ProbeSettings
from ml.evaluation.packed_labels import PackedLabels
from ml.evaluation.probe import (
    ProbeNetwork,
    Profiles,
    build_optimizer,
    build_probe,
    predict,
    score_logits,
    tensor_float32,
    train_epoch,
)

TASK = "propensity_sku"
N_LABELS = 100
SEED = 7


class Samples(Dataset):
    """One client's profile and labels at a time, both float32."""

    def __init__(self, profiles: np.ndarray, labels: np.ndarray) -> None:
        self.profiles, self.labels = profiles.astype(np.float32), labels.astype(np.float32)

    def __len__(self) -> int:
        return len(self.profiles)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        return self.profiles[place], self.labels[place]


def plain_epoch(network: ProbeNetwork, samples: Samples, settings: ProbeSettings, device: str) -> Iterator[Tensor]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    for batch, target in DataLoader(samples, batch_size=settings.batch_size):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch.to(device)), target.to(device))
        loss.backward()
        optimizer.step()
        yield loss.detach()


@dataclass
class Side:
    """One of those compared: its steps, how long they took, and their losses."""

    name: str
    network: ProbeNetwork
    steps: Iterator[Tensor]
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def take_step(self) -> bool:
        """Whether there was one left."""
        started = time.perf_counter()
        loss = next(self.steps, None)
        if loss is None:
            return False
        self.losses.append(loss.item())
        self.seconds += time.perf_counter() - started
        return True


def made_data(n_clients: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Profiles float16 [N, d], and labels uint8 [N, n] whose odds are linear in them, one in twenty a 1."""
    generator = np.random.default_rng(SEED)
    profiles = generator.normal(size=(n_clients, width)).astype(np.float16)
    odds = profiles.astype(np.float32) @ generator.normal(size=(width, N_LABELS)).astype(np.float32) / width**0.5
    return profiles, (generator.random(odds.shape) < 1 / (1 + np.exp(3.5 - 1.5 * odds))).astype(np.uint8)


def list_sides(profiles: np.ndarray, labels: np.ndarray, settings: ProbeSettings, device: str) -> list[Side]:
    """Ours, the plain loop, and ours in each other precision that the device has."""

    def network(of: ProbeSettings) -> ProbeNetwork:
        return build_probe(profiles.shape[1], N_LABELS, of).to(device)

    def ours(name: str, of: ProbeSettings) -> Side:
        made = network(of)
        truth = PackedLabels.pack(labels)
        steps = train_epoch(made, build_optimizer(made, of), Profiles(profiles, device=device), truth, of.batch_size)
        return Side(name, made, steps)

    plain = network(settings)
    return [
        ours("ubp", settings),
        Side("DataLoader of samples", plain, plain_epoch(plain, Samples(profiles, labels), settings, device)),
        ours("ubp, bfloat16", replace(settings, precision="bfloat16")),
    ]


def measure_tf32(profiles: np.ndarray, labels: np.ndarray, settings: ProbeSettings) -> Side:
    """An epoch of its own: TF32 is a switch of the process, so that it cannot take turns."""
    with tensor_float32(True):
        (side, *_) = list_sides(profiles, labels, settings, "cuda")
        while side.take_step():
            pass
    side.name = "ubp, tf32"
    return side


def main() -> None:
    """Run the sides and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=1_280)
    parser.add_argument("--hidden-size", type=int, default=ProbeSettings().hidden_size)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = ProbeSettings(hidden_size=arguments.hidden_size)
    profiles, labels = made_data(arguments.clients, arguments.width)
    sides = list_sides(profiles, labels, settings, device)
    while all([side.take_step() for side in sides]):
        pass
    if device == "cuda":
        sides.append(measure_tf32(profiles, labels, settings))
    show(sides, profiles, labels, device)


def show(sides: list[Side], profiles: np.ndarray, labels: np.ndarray, device: str) -> None:
    """Times, differences and scores, against the first side."""
    first, popularity = sides[0], labels.mean(axis=0)
    print(f"{len(profiles):,} clients, {profiles.shape[1]:,} wide, {len(first.losses)} steps, {device}, ", end="")
    print(f"{torch.get_num_threads()} threads; loss from {first.losses[0]:.4f} to {first.losses[-1]:.4f}")
    for side in sides:
        difference = np.abs(np.array(side.losses) - np.array(first.losses)).max()
        logits = predict(side.network, Profiles(profiles, device=device), N_LABELS)
        result = score_logits(logits, PackedLabels.pack(labels), TASK, popularity)
        print(
            f"{side.name:22} {side.seconds:7.1f} s  {1000 * side.seconds / len(side.losses):6.0f} ms a step  "
            f"x {side.seconds / first.seconds:.2f}  largest difference of losses {difference:.1e}  "
            f"score {result.score:.4f}, AUROC {result.auroc:.4f}"
        )


if __name__ == "__main__":
    main()
