"""What an encoder of sequences is.

Legend of shapes: B batch, L positions of a row, M chosen positions, D hidden, K candidate tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_embeddings import products


class SequenceEncoder(nn.Module, ABC):
    """A model from a client's sequence to hidden states, and from hidden states to scores of items; it knows no loss.

    It is an abstract class and no ``typing.Protocol`` because every encoder is an ``nn.Module`` too, which Python
    cannot say of a protocol. A new one must give ``encode`` and ``item_vectors``; all else has a default. Its weights
    and its dropout are drawn from torch's global generator alone: that is seeded before it is made and before every
    step, so that a killed training goes on to the same weights. Nobody calls ``forward``.

    Parameters
    ----------
    sparse_tables : give the parameters with a row per token sparse gradients, of the rows used only, if it can

    Attributes
    ----------
    hidden_size : D
    max_length : the most positions of a batch
    is_causal : whether a position sees none after it
    has_sparse_tables : whether ``row_parameters`` get sparse gradients
    can_compile : whether torch's compiler makes it quicker
    heads : what its objective learns beside it (``Objective.build_heads``), on its device; None but in training
    reads_segments : whether rows that several clients share do not mix them; such rows may be wider than ``max_length``
    """

    has_sparse_tables = False
    reads_segments = False
    can_compile = True
    heads: nn.Module | None = None

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.hidden_size, self.max_length = settings.hidden_size, settings.max_length
        self.is_causal = self.reads_causally(settings)

    @classmethod
    def reads_causally(cls, settings: EncoderSettings) -> bool:
        """``is_causal`` of an encoder of these settings, before one is made."""
        return False

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Raise ConfigError, which names ``encoders.<name>``, where no encoder of these settings can be made."""
        return

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def require_shape(self, batch: SequenceBatch[Tensor]) -> None:
        """Raise ValueError for rows that are wider than ``max_length``, or shared where it would mix the clients."""
        width = batch.shape[1]
        if batch.segments is None and width > self.max_length:
            raise ValueError(f"a batch of width {width} exceeds the model's max_length {self.max_length}")
        if batch.segments is not None and not self.reads_segments:
            raise ValueError("rows that several clients share (segments): expected none, this encoder would mix them")

    @abstractmethod
    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """Hidden states float [B, L, D] of a batch; finite at PAD, where they mean nothing.

        How wide a row is padded and what else is in the batch must not change a token's.

        Raises
        ------
        ValueError
            If the rows are wider than ``max_length`` and one client each.
        """

    def encode_at(self, batch: SequenceBatch[Tensor], positions: Tensor) -> Tensor:
        """Hidden states float [M, D] of some tokens.

        Parameters
        ----------
        positions : int64 [M], rising, in the flattened batch; none of them is PAD
        """
        return self.encode(batch).flatten(0, 1).index_select(0, positions)

    @abstractmethod
    def item_vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D], what it knows of tokens (int64 [...]) without a sequence."""

    def output_vectors(self, hidden: Tensor) -> Tensor:
        """Float [M, D] to compare with items, from hidden states [M, D] (the prediction head)."""
        return hidden

    def logits(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K], how well each token of ``candidates`` fits each output vector (float [M, D]).

        Parameters
        ----------
        candidates : int64 [K]; or [M, K], where each vector has candidates of its own
        """
        return products(vectors, self.item_vectors(candidates))

    def logits_between(self, vectors: Tensor, first: int, end: int) -> Tensor:
        """Float [M, end - first], the ``logits`` of the tokens ``first`` to ``end - 1``."""
        return self.logits(vectors, torch.arange(first, end, device=vectors.device))

    def row_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters with a row per token."""
        return iter(())

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but ``row_parameters``."""
        # by identity: tensors compare their elements
        rows = {id(parameter) for parameter in self.row_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in rows)

    def decaying_parameters(self) -> Iterator[Tensor]:
        """The dense parameters that weight decay is for: matrices, not tables, norms or biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                yield module.weight
            elif isinstance(module, nn.RNNBase):
                yield from (weight for name, weight in module.named_parameters() if name.startswith("weight_"))


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Run without dropout and gradients; the encoder is then in the mode it was in before."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        encoder.train(was_training)
