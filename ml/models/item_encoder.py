"""What encoders share that know items by a table: how items come in, and how a hidden state is compared with them.

Legend of shapes: D hidden, M output vectors, K candidates.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings, ModelSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.event_embedding import EventContext, EventTable
from ml.models.item_embeddings import INIT_STD, FullTable, HashedTable, ItemTable, ProductTable, products
from ml.models.protocol import SequenceEncoder
from ml.models.semantic_table import SemanticTable
from schemas.tokens import PAD

LOWEST_TEMPERATURE = 0.01
"""A learned temperature goes no lower (PinnerFormer, Pancha et al. 2022, arXiv:2205.04507)."""


class ItemEncoder(SequenceEncoder):
    """One table serves input and output (Sun et al. 2019, section 3.5), or one each; see ``SequenceEncoder``.

    A subclass makes its layers, then ``head`` by ``build_head``, then calls ``initialise``.
    """

    head: nn.Module

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__(settings, vocabulary)
        self.is_cosine, is_tied = settings.similarity == "cosine", settings.output_table == "tied"
        has_bias = settings.item_bias and not self.is_cosine
        self.item_table = build_table(settings, vocabulary, sparse_tables, has_bias and is_tied)
        # not the item table again where it is tied: a model folder would hold it twice
        self.own_output_table = None if is_tied else build_table(settings, vocabulary, sparse_tables, has_bias)
        self.context = EventContext(settings) if settings.has_context else None
        # an output table of its own is of the same kind: one answer holds for both
        self.has_sparse_tables = self.item_table.is_sparse
        self.initial_temperature = settings.temperature
        is_learned = self.is_cosine and settings.learn_temperature
        self.temperature = nn.Parameter(torch.empty(())) if is_learned else None

    @property
    def output_table(self) -> ItemTable:
        """What outputs are compared with."""
        return self.item_table if self.own_output_table is None else self.own_output_table

    def initialise(self) -> None:
        """Draw new weights from torch's global generator."""
        self.item_table.initialise()
        if self.own_output_table is not None:
            self.own_output_table.initialise()
        if self.temperature is not None:
            nn.init.constant_(self.temperature, self.initial_temperature)
        # tables have drawn their own already, with spreads of their own
        own = {id(module) for table in (self.item_table, self.output_table) for module in table.modules()}
        for module in (module for module in self.modules() if id(module) not in own):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def event_vectors(self, batch: SequenceBatch[Tensor], positions: Tensor | None = None) -> Tensor:
        """What of a batch comes in: its items' vectors and, where there is one, their context; float [N, D].

        Parameters
        ----------
        positions : int64 [N], of the events, in the flattened batch; None for all, padding too, which is zero
        """
        tokens = batch.token_ids.flatten() if positions is None else batch.token_ids.flatten()[positions]
        items = self.item_table.vectors(tokens)
        if self.context is None:
            return items
        return items + self.context(batch, positions).masked_fill((tokens == PAD).unsqueeze(1), 0.0)

    def item_vectors(self, token_ids: Tensor) -> Tensor:
        """What outputs are compared with, float [..., D]."""
        return self.output_table.outputs(token_ids)

    def output_vectors(self, hidden: Tensor) -> Tensor:
        """Float [M, D] to compare with the item table; of length 1 where cosines are compared."""
        vectors: Tensor = self.head(hidden)
        return F.normalize(vectors, dim=-1) if self.is_cosine else vectors

    def logits(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K]: products, or cosines divided by the temperature."""
        if not self.is_cosine:
            return self.output_table.scores(vectors, candidates)
        # float32 before the division: in bfloat16 it would round to an eighth
        cosines = products(vectors, F.normalize(self.output_table.outputs(candidates), dim=-1)).float()
        if self.temperature is None:
            return cosines / self.initial_temperature
        # the bound has a gradient of one: below it, a temperature would stay for ever
        bounded = self.temperature.clamp(min=LOWEST_TEMPERATURE)
        return cosines / (self.temperature + (bounded - self.temperature).detach())

    def logits_between(self, vectors: Tensor, first: int, end: int) -> Tensor:
        """Float [M, end - first]."""
        if self.is_cosine:
            return super().logits_between(vectors, first, end)
        return self.output_table.scores_between(vectors, first, end)

    def row_parameters(self) -> Iterator[nn.Parameter]:
        """Those of full item tables."""
        yield from self.item_table.row_parameters()
        if self.own_output_table is not None:
            yield from self.own_output_table.row_parameters()


def build_table(
    settings: EncoderSettings, vocabulary: VocabularyDescription, is_sparse: bool, has_bias: bool = True
) -> ItemTable:
    """The table of the settings, not yet initialised; a full one alone has biases, it and ``events`` may be sparse."""
    kind, size = settings.table_kind, settings.hidden_size
    if kind == "events":
        return EventTable(settings, vocabulary, is_sparse)
    if kind == "semantic":
        return SemanticTable(settings, vocabulary)
    if kind == "hashed":
        return HashedTable(size, settings.table_rows)
    if kind == "product":
        return ProductTable(vocabulary.n_tokens, size, settings.table_splits)
    return FullTable(vocabulary.n_tokens, size, is_sparse, has_bias)


def build_head(settings: ModelSettings) -> nn.Module:
    """What makes an output vector of a hidden state: BERT's layer, or nothing."""
    size = settings.hidden_size
    if settings.head == "none":
        return nn.Identity()
    return nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
