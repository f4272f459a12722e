"""Exponential moving average of a network's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.errors import UserError


def ema_of(network: nn.Module, decay: float) -> AveragedModel:
    """Return a frozen average of `network`: call `update_parameters(network)` after every optimiser step.

    The decay warms up as min(decay, (1 + n) / (10 + n)), so the average of a short run does not remember the
    initial weights. After the first update, which copies, n counts from 1.
    """
    if not 0 <= decay < 1:
        raise UserError(f"EMA decay must be in [0, 1), got {decay}")

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        n = int(num_averaged)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]

    averaged = AveragedModel(network, multi_avg_fn=average)  # pyright: ignore[reportArgumentType]
    return averaged.eval().requires_grad_(False)
