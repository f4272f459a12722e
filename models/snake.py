"""Snake, the autoencoder's activation: x + sin^2(alpha x) / alpha with one alpha a channel.

It is a third of a training step on a CPU and the largest share of memory: autograd would keep four tensors for each,
here it is the input alone, and every pass over memory counts.

Source: Ziyin et al. 2020 (arXiv 2006.08195), eq. 3.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

EPSILON = 1e-9


class SnakeFunction(torch.autograd.Function):
    """x + sin^2(alpha x) / alpha as x + (1 - cos(2 alpha x)) / (2 alpha)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        half_inverse = 0.5 / (alpha + EPSILON)
        wave = (x * (2 * alpha)).cos_()
        return torch.addcmul(x, wave, -half_inverse, out=wave).add_(half_inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, alpha = ctx.saved_tensors
        phase = x * (2 * alpha)
        slope = phase.sin()  # dy/dx - 1
        inverse = 1 / (alpha + EPSILON)
        # dy/dalpha = x sin(2 alpha x) / alpha - sin^2(alpha x) / alpha^2, written with phase to save passes
        by_alpha = (phase * slope).add_(phase.cos_()).sub_(1).mul_(gradient).sum(dim=(0, 2), keepdim=True)
        return torch.addcmul(gradient, slope, gradient, out=slope), by_alpha * (0.5 * inverse.square())


class Snake(nn.Module):
    """The activation of a number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:  # (batch, channels, time) -> same
        alpha = self.alpha.to(x.dtype)
        if torch.compiler.is_compiling():
            # The compiler fuses the plain formula itself; of a function that works in place it loses the gradient.
            return x + (alpha * x).sin().square() / (alpha + EPSILON)
        return cast(Tensor, SnakeFunction.apply(x, alpha))
