"""Past against future: what a client did until a cut is to be told from what others did in the days after theirs.

The pair of towers of the challenge's winner, with one encoder for both: a linear layer each tells past from future.

Legend of shapes: B batch, L positions of a row, F rows with a future, D hidden.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SECONDS_PER_DAY, SequenceBatch, concatenate, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.errors import ConfigError
from schemas.tokens import PAD


class ContrastiveHeads(nn.Module):
    """What both vectors go through before they are compared, and whether a client comes back at all."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.past, self.future = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.has_future = nn.Linear(hidden_size, 1)


class Contrastive(Objective):
    """In-batch cross-entropy of each past with its future, and a binary one of whether there is a future.

    A step cuts each row after one of its events, drawn anew. Its future is what comes within ``future_days`` of it. A
    row without one is no negative of others: all of these are alike.
    """

    needs_causal: bool | None = None
    is_sampled = True
    ranks_items = False

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings = settings.contrastive

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Refuse sequences without times."""
        if not settings.reads_events:
            raise ConfigError(
                f"encoders.{name}.objective=contrastive: expected sequences with times, found "
                f"event_columns={settings.event_columns}; set encoders.{name}.event_columns=true"
            )

    def build_heads(self, hidden_size: int) -> ContrastiveHeads:
        """Linear layers."""
        self.heads = ContrastiveHeads(hidden_size)
        return self.heads

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Pasts, then the futures that there are, as rows that end in the last position."""
        n_rows, width = batch.shape
        seconds, is_token = required_column(batch, "timestamps"), batch.token_ids != PAD
        lengths = is_token.sum(dim=1)
        # 1 to length - 1 events are past
        n_past = 1 + (torch.rand(n_rows, generator=generator) * (lengths - 1)).long()
        cut = (width - lengths + n_past).unsqueeze(1)  # [B, 1], where the future begins
        index = torch.arange(width)
        limit = seconds.gather(1, cut - 1) + round(self.settings.future_days * SECONDS_PER_DAY)
        is_future = (index >= cut) & (seconds <= limit)  # times rise: one run after the cut
        n_future = is_future.sum(dim=1)  # [B]
        of_future = n_future.nonzero().squeeze(1)  # [F]
        past = _runs(batch, (cut - 1).squeeze(1), n_past)
        future = _runs(batch[of_future], (cut.squeeze(1) + n_future - 1)[of_future], n_future[of_future])
        # in one batch: the encoder runs once for both
        inputs = concatenate([past, future], torch.cat)
        positions = torch.arange(1, len(inputs) + 1) * width - 1
        targets = {"of_future": of_future, "has_future": (n_future > 0).float()}
        return TrainingBatch(inputs, positions, targets, n_targets=n_rows)

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """Of both terms the mean, times the rows."""
        of_future, has_future = targets["of_future"], targets["has_future"]
        past, future = hidden[: len(has_future)], hidden[len(has_future) :]
        comes_back = self.heads.has_future(past).squeeze(1)
        total = F.binary_cross_entropy_with_logits(comes_back.float(), has_future, reduction="sum")
        pasts = F.normalize(self.heads.past(past[of_future]).float(), dim=1)
        futures = F.normalize(self.heads.future(future).float(), dim=1)
        # float32 also where products are bfloat16: divided by a small temperature, their rounding would be seen
        with torch.autocast(pasts.device.type, enabled=False):
            logits = pasts @ futures.T / self.settings.temperature  # [F, F]
        own = torch.arange(len(of_future), device=logits.device)
        matched = F.cross_entropy(logits, own, reduction="sum")
        # both terms weigh alike, however many rows have a future
        return total + matched * len(past) / max(1, len(of_future))


def _runs(batch: SequenceBatch[Tensor], last: Tensor, lengths: Tensor) -> SequenceBatch[Tensor]:
    """Rows of ``lengths`` events each (int64 [B]) that end with the one at ``last`` (int64 [B]), left-padded."""
    width = batch.shape[1]
    index = torch.arange(width) - (width - 1 - last).unsqueeze(1)  # [B, L], where each position's event was
    is_outside = index <= (last - lengths).unsqueeze(1)
    return batch.map(lambda column: column.gather(1, index.clamp(min=0)).masked_fill(is_outside, PAD))
