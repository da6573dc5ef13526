"""Small networks that make a block's columns fewer, trained to give the columns back.

The paper tried both kinds on the organisers' features, and both made its profiles worse; docs/profile_scores.md has
how they do beside principal axes.

Legend of shapes: n clients, d columns of a block, k columns that they become.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ml.profiles.composition import Network
from schemas.errors import ConfigError

Kind = Literal["dense", "autoencoder"]

EPOCHS, ROWS_PER_BATCH, LEARNING_RATE, SEED = 30, 256, 1e-3, 0
HIDDEN_COLUMNS = 2
"""Units of the autoencoder's hidden layers, per column that it ends in."""


def fit_network(standard: NDArray[np.float32], n_columns: int, kind: Kind) -> Network:
    """Train encoder and decoder on the mean squared error of the columns; the same rows give the same network.

    Parameters
    ----------
    standard : float32 [n, d], columns of mean 0 and deviation 1
    n_columns : k
    kind : ``dense``, one layer and its ReLU; ``autoencoder``, two layers

    Raises
    ------
    ConfigError
        If there are fewer rows than columns to make.
    """
    if len(standard) < n_columns:
        raise ConfigError(
            f"ensemble.stacking: max_columns={n_columns} with reduction={kind} needs as many clients that have the "
            f"block, found {len(standard)}; lower max_columns, or use reduction=axes"
        )
    is_dense = kind == "dense"
    sizes = [standard.shape[1], *([] if is_dense else [HIDDEN_COLUMNS * n_columns]), n_columns]
    # the callers' own draws go on as if nothing had been drawn here
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        # the decoder has the encoder's widths in reverse
        layers, back = ([nn.Linear(*pair) for pair in pairwise(each)] for each in (sizes, sizes[::-1]))
        # of one layer without its ReLU, the best would be the principal axes again
        encoder = nn.Sequential(_rectified(layers), nn.ReLU() if is_dense else nn.Identity())
        _train(nn.Sequential(encoder, _rectified(back)), torch.from_numpy(standard))
    weights = tuple(layer.weight.detach().numpy().T.copy() for layer in layers)
    biases = tuple(layer.bias.detach().numpy().copy() for layer in layers)
    plain = Network(weights, biases, is_dense, np.zeros(n_columns, np.float32), np.ones(n_columns, np.float32))
    units = plain.apply(standard)
    deviations = units.std(axis=0)
    # a unit that no client wakes is 0 for all of them
    scale = np.where(deviations > 0, deviations, 1).astype(np.float32)
    return Network(weights, biases, is_dense, units.mean(axis=0), scale)


def _rectified(layers: Sequence[nn.Linear]) -> nn.Module:
    """The layers, with a ReLU between two."""
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))[:-1]


def _train(network: nn.Module, rows: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows)).split(ROWS_PER_BATCH):
            optimizer.zero_grad()
            F.mse_loss(network(rows[chosen]), rows[chosen]).backward()
            optimizer.step()
