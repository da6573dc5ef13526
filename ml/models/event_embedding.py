"""What an event of a merged stream is for an encoder: its item's content, and its context.

The content encoder of the challenge's fourth place: the ids of all kinds of items share one table of hashed rows
(Unified Embedding, Coleman et al. 2023, arXiv:2305.12102), beside a price and the codes of a name or a query. The
context is added to it: what happened, when, and how long after what came before.

Legend of shapes: B batch, L positions of a row, N events, D hidden, E width of a part, R rows of the table of ids,
V tokens, M output vectors, K candidates.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.item_attributes import N_CODE_VALUES, N_PRICES, ItemAttributes
from ml.data.segments import sequence_numbers
from ml.data.sequence_batch import SECONDS_PER_DAY, SECONDS_PER_HOUR, SequenceBatch, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_embeddings import INIT_STD, ItemTable, hashed_rows, products
from schemas.behaviours import CODES_PER_QUERY
from schemas.columns import SKU
from schemas.tokens import PAD

WEEKDAY_OF_1970 = 3
"""The first of January 1970 was a Thursday; Monday is 0."""
UNKNOWN_ROW = 0
"""Of the table of ids: zeros, for an id that an item does not have."""


class EventTable(ItemTable):
    """Makes an item's vector of what is known of it, so that items of like attributes are alike from the start.

    Three parts of E columns are concatenated and projected: ids, price, codes. Each of an item's ids, its own and its
    category's, is two rows of one table that two hashes choose; the two ids are averaged. What an item does not have is
    zeros: a url has neither price nor codes, a query is its codes and has no id of its own.

    As an output an item is compared by a multi-layer perceptron of its vector. Nothing here has a row per token but the
    attributes.

    Parameters
    ----------
    is_sparse : give the table of ids sparse gradients, of the rows used only

    Attributes
    ----------
    category, price, codes : ``ItemAttributes`` of the vocabulary, int32 [V], int16 [V] and int16 [V, 16], which are
        saved with the model
    has_id : uint8 [V], saved too: not of queries, which are items with codes that are no skus
    """

    category: Tensor
    has_id: Tensor
    price: Tensor
    codes: Tensor

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription, is_sparse: bool = False) -> None:
        super().__init__()
        size, width = settings.hidden_size, settings.event_embedding.width
        self.is_sparse, self.averages = is_sparse, settings.event_embedding.ids == "mean"
        self.weight = nn.Parameter(torch.empty(settings.table_rows, width if self.averages else width // 2))
        self.price_table = nn.Parameter(torch.empty(N_PRICES, width))
        self.code_table = nn.Parameter(torch.empty(N_CODE_VALUES, width))
        self.projection = nn.Linear(3 * width, size)
        self.output = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))
        attributes = vocabulary.attributes or ItemAttributes.unknown(vocabulary.n_tokens)
        for name in ("category", "price", "codes"):
            self.register_buffer(name, torch.tensor(getattr(attributes, name)))
        has_id = (attributes.codes[:, 0] == 0) | (attributes.item_kind == vocabulary.kind_of(SKU))
        # no bool: our model files have none (ml/files/tensor_file.py)
        self.register_buffer("has_id", torch.from_numpy(has_id.astype(np.uint8)))

    def initialise(self) -> None:
        """Draw new values, such that each part, and an item's vector, is spread as a row of a full table."""
        # the mean of n rows is spread 1 / sqrt(n) as far as one of them
        nn.init.normal_(self.weight, std=INIT_STD * (2**0.5 if self.averages else 1.0))
        nn.init.normal_(self.price_table, std=INIT_STD)
        nn.init.normal_(self.code_table, std=INIT_STD * CODES_PER_QUERY**0.5)
        with torch.no_grad():
            for table in (self.weight, self.price_table, self.code_table):
                table[UNKNOWN_ROW].zero_()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # keeps the spread of what goes through, so that what comes out is spread as a table's row
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)

    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        tokens = token_ids.flatten()  # [N]
        # padding_idx: UNKNOWN_ROW gets no gradient and stays zeros
        parts = [
            self._id_vectors(tokens),
            F.embedding(self.price[tokens].long(), self.price_table, padding_idx=UNKNOWN_ROW),
            F.embedding_bag(self.codes[tokens].long(), self.code_table, mode="mean", padding_idx=UNKNOWN_ROW),
        ]
        vectors = self.projection(torch.cat(parts, dim=1)).masked_fill((tokens == PAD).unsqueeze(1), 0.0)  # [N, D]
        return vectors.unflatten(0, token_ids.shape)

    def outputs(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        outputs: Tensor = self.output(self.vectors(token_ids))
        return outputs

    def scores(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K]."""
        return products(vectors, self.outputs(candidates))

    def row_parameters(self) -> Iterator[nn.Parameter]:
        """The table of ids."""
        yield self.weight

    def rows(self, token_ids: Tensor) -> Tensor:
        """Int64 [..., 2, 2], two for a token's own id and two for its category's; ``UNKNOWN_ROW`` where it has none."""
        category = self.category[token_ids].long()  # [...]
        is_known = torch.stack([self.has_id[token_ids] > 0, category > 0], dim=-1)  # [..., 2]
        ids = torch.stack([2 * token_ids, 2 * category + 1], dim=-1)  # [..., 2], apart from each other
        # hashes choose from row 1 on: row 0 is UNKNOWN_ROW
        rows = torch.stack([1 + row for row in hashed_rows(ids, len(self.weight) - 1)], dim=-1)  # [..., 2, 2]
        return rows.masked_fill(~is_known.unsqueeze(-1), UNKNOWN_ROW)

    def _id_vectors(self, tokens: Tensor) -> Tensor:
        """Float [N, E], the mean over the known ids of each token."""
        rows = self.rows(tokens)  # [N, 2, 2]
        is_known = rows[:, :, 0] != UNKNOWN_ROW  # [N, 2]
        hashed = self.look_up(rows)  # [N, 2, 2, E or E/2]
        by_id = hashed.mean(dim=2) if self.averages else hashed.flatten(2)  # [N, 2, E]
        return by_id.sum(dim=1) / is_known.sum(dim=1, keepdim=True).clamp(min=1)


class EventContext(nn.Module):
    """The sum of a vector for each thing that is known of an event beside its item; settings leave some out."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        size, chosen = settings.hidden_size, settings.event_embedding
        known: dict[str, nn.Module] = {
            "event_type": nn.Embedding(1 + len(settings.behaviours), size),
            "weekday": nn.Embedding(7, size),
            "hour": nn.Embedding(24, size),
            "since_previous": nn.Linear(1, size),
            "since_first": nn.Linear(1, size),
        }
        self.parts = nn.ModuleDict({name: part for name, part in known.items() if getattr(chosen, name)})

    def forward(self, batch: SequenceBatch[Tensor], positions: Tensor | None) -> Tensor:
        """Float [N, D].

        Parameters
        ----------
        batch : with ``event_types`` and ``timestamps``
        positions : int64 [N], of the events, in the flattened batch; None for all, padding too
        """
        values = event_times(batch) | {"event_type": required_column(batch, "event_types")}
        vectors = []
        for name, part in self.parts.items():
            of_events = values[name].flatten() if positions is None else values[name].flatten()[positions]  # [N]
            vectors.append(part(of_events if isinstance(part, nn.Embedding) else of_events.unsqueeze(1)))
        return torch.stack(vectors).sum(dim=0)


def event_times(batch: SequenceBatch[Tensor]) -> dict[str, Tensor]:
    """What an event's time says of it, by the name of its part in a context, [B, L] each; finite at PAD.

    Returns
    -------
    ``weekday`` int64, Monday is 0; ``hour`` int64; ``since_previous`` float, log(1 + hours since the event before);
    ``since_first`` float, log(1 + days since the first event of the sequence in this row). Both are 0 for the first.
    """
    seconds = required_column(batch, "timestamps")
    sequences = sequence_numbers(batch)
    is_first = sequences != F.pad(sequences[:, :-1], (1, 0))
    index = torch.arange(seconds.shape[1], device=seconds.device)
    # at each position, where the sequence that it belongs to began
    first = torch.where(is_first, index, 0).cummax(dim=1).values
    since_first = seconds - seconds.gather(1, first)
    since_previous = (seconds - F.pad(seconds[:, :-1], (1, 0))).masked_fill(is_first, 0)
    return {
        "weekday": (seconds // SECONDS_PER_DAY + WEEKDAY_OF_1970) % 7,
        "hour": seconds // SECONDS_PER_HOUR % 24,
        "since_previous": torch.log1p(since_previous / SECONDS_PER_HOUR),
        "since_first": torch.log1p(since_first / SECONDS_PER_DAY),
    }
