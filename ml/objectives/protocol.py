"""What an objective is.

Legend of shapes: B batch, L positions of a row, N sequences, M positions whose hidden states a loss needs, D hidden,
K candidates.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch, moved_to
from ml.data.vocabulary import VocabularyDescription


class Score(Protocol):
    """How well tokens fit the hidden states of a batch, by the encoder's prediction head and items."""

    def __call__(self, tokens: Tensor, rows: Tensor | None = None, /) -> Tensor:
        """Float [M, K].

        Parameters
        ----------
        tokens : int64 [K], or [M, K], where each hidden state has its own
        rows : of the hidden states, int64 [M]; None for all
        """


@dataclass(frozen=True)
class TrainingBatch:
    """What an encoder reads, and what is to be learnt of it.

    Of rows that are one client each it is made on the CPU, so that no GPU waits to count targets. Of packed rows it is
    made where the encoder is: M is a bound, and positions past the last target are any, and have no part in the loss.

    Attributes
    ----------
    inputs : tensors [B, L]
    positions : int64 [M], rising: those of the flattened inputs whose hidden states the loss needs
    targets : what the objective's loss compares them with; each begins with M or is shared by all. ``positives``, where
        there are some, are all tokens that the loss scores besides the candidates
    n_targets : how many terms the loss sums; a tensor where nobody may wait to know
    """

    inputs: SequenceBatch[Tensor]
    positions: Tensor
    targets: Mapping[str, Tensor]
    n_targets: int | Tensor

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same on ``device``; to a GPU from pinned memory, which nobody waits for."""
        if device == self.positions.device:
            return self
        targets = {name: moved_to(target, device) for name, target in self.targets.items()}
        inputs = self.inputs.map(lambda column: moved_to(column, device))
        return TrainingBatch(inputs, moved_to(self.positions, device), targets, self.n_targets)


class Objective(Protocol):
    """What an encoder is trained on. It takes batches and tensors, never an encoder.

    One step of training calls ``prepare`` once a batch, then ``draw_candidates`` once, then ``loss`` once a batch: what
    is random is drawn in this order.

    Attributes
    ----------
    needs_causal : whether the encoder must be causal; None where it may be or not
    takes_packed : whether ``prepare`` takes rows that several clients share
    is_sampled : whether a step scores few of the items; tables with a row per token then get sparse gradients
    ranks_items : whether validation can rank a client's last item; else no epoch is better than another
    """

    needs_causal: bool | None
    takes_packed: bool = False
    is_sampled: bool
    ranks_items: bool = True

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None: ...

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Raise ConfigError, which names ``encoders.<name>``, where an encoder of these settings cannot learn this."""
        return

    @property
    def item_kinds(self) -> Tensor | None:
        """Integers [V], on the encoder's device: validation ranks an item among those of its kind; None: among all."""
        return None

    def build_heads(self, hidden_size: int) -> nn.Module | None:
        """What of the objective is learnt, such as a layer that classifies hidden states; None where nothing is.

        The objective keeps it for ``loss``. It is trained, broadcast and resumed with the encoder, as its ``heads``,
        and left out of the model folder.
        """
        return None

    @abstractmethod
    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Inputs and targets of a batch of tensors, on the generator's device; the same seed gives the same ones.

        Parameters
        ----------
        most_targets : M, of packed rows

        Raises
        ------
        ValueError
            If a row that is one client has nothing to learn; the feed must leave it out.
        """

    def most_targets(self, lengths: NDArray[np.integer], n_positions: int) -> int:
        """A bound of the targets of packed sequences: by default, as many as there are positions.

        Parameters
        ----------
        lengths : integers [N], 2 or more each
        n_positions : of the batch
        """
        return n_positions

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Token ids int64 [K] that all batches of a step are compared with; None where none are drawn."""
        return None

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The loss summed over the targets, float scalar; nothing in it waits for the device.

        Parameters
        ----------
        hidden : float [M, D], the hidden states at ``TrainingBatch.positions``
        targets : of ``prepare``, where the hidden states are
        candidates : of ``draw_candidates``, where the hidden states are
        score : of candidates at the hidden states, by the encoder's prediction head and items
        """

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """How validation asks for the last item of each row: inputs whose last hidden state is to predict it.

        Raises
        ------
        ValueError
            If a row ends in PAD or MASK, or the objective does not rank items.
        """
        raise ValueError(f"expected an objective that ranks items, found {type(self).__name__}")
