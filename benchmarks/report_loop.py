"""The training loop of the paper that this project re-makes, written again from its description; plain torch.

Its settings and its habits: batches of 16 in the order they come, padded to 128; a fresh mask at every position with
probability .15 (80 % the mask token, 10 % a random token, 10 % left as it is); logits over the whole vocabulary at
every position, of which the loss then takes the masked ones; AdamW with weight decay over everything, the dense item
table included; the gradient's norm clipped to 1; a step decay of the learning rate. Only the tables' initial spread
is not the paper's 1, with which it would learn nothing for thousands of steps (it costs no time either way).

Legend of shapes: B batch, L sequence, D hidden, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, MASK, FIRST_ITEM = 0, 1, 2
IGNORE_INDEX = -100
MAX_LENGTH, BATCH_SIZE, MASK_PROB = 128, 16, 0.15
HIDDEN_SIZE, N_LAYERS, N_HEADS, FEED_FORWARD_SIZE, DROPOUT = 256, 6, 8, 256, 0.2


class ReportModel(nn.Module):
    """Item and position tables, norm, dropout, projection, torch's own encoder, and the tied table as the output."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.item_table = nn.Embedding(n_tokens, HIDDEN_SIZE, padding_idx=PAD)
        self.position_table = nn.Embedding(MAX_LENGTH, HIDDEN_SIZE)
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.dropout = nn.Dropout(DROPOUT)
        self.projection = nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE)
        layer = nn.TransformerEncoderLayer(
            HIDDEN_SIZE, N_HEADS, FEED_FORWARD_SIZE, DROPOUT, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, N_LAYERS, enable_nested_tensor=False)
        self.output_bias = nn.Parameter(torch.zeros(n_tokens))
        nn.init.normal_(self.item_table.weight, std=0.02)
        nn.init.normal_(self.position_table.weight, std=0.02)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits float [B, L, V] of token ids int64 [B, L]."""
        positions = torch.arange(token_ids.shape[1])
        x = self.item_table(token_ids) + self.position_table(positions)  # [B, L, D]
        x = self.projection(self.dropout(self.norm(x)))
        x = self.encoder(x, src_key_padding_mask=token_ids == PAD)
        return x @ self.item_table.weight.T + self.output_bias


class ReportLoop:
    """The model and its optimiser; one step per call."""

    def __init__(self, n_items: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.n_tokens = FIRST_ITEM + n_items
        self.model = ReportModel(self.n_tokens)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1000, gamma=0.9)

    def step(self, token_ids: Tensor) -> float:
        """The loss of one batch (int64 [B, MAX_LENGTH], padded with PAD) before the update by it."""
        inputs, labels = self._mask(token_ids)
        self.optimizer.zero_grad()
        logits = self.model(inputs)  # [B, L, V]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    def _mask(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        is_hidden = (torch.rand(token_ids.shape) < MASK_PROB) & (token_ids != PAD)
        fate = torch.rand(token_ids.shape)
        random_tokens = torch.randint(FIRST_ITEM, self.n_tokens, token_ids.shape)
        replacement = torch.where(fate < 0.8, torch.full_like(token_ids, MASK), token_ids)
        replacement = torch.where(fate >= 0.9, random_tokens, replacement)
        inputs = torch.where(is_hidden, replacement, token_ids)
        return inputs, token_ids.masked_fill(~is_hidden, IGNORE_INDEX)
