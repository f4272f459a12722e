"""Everything between a loss and new weights, for every training: optimiser, learning rate, averages, bad steps.

    rate(n) = learning_rate * min(1, (n + 1) / warmup) * decay^n * (f + (1 - f) (1 + cos(pi n / N)) / 2)
    average <- lerp(average, weights, 1 - min(decay, (1 + n) / (10 + n)))

A step whose loss or gradient is not finite, on any process and in any of the batches that make it, changes nothing:
`finite_or_nan` lets such a loss spoil every gradient, which the processes average, so that `clip_or_drop` decides alike
on all of them; an optimiser leaves weights without a gradient as they are, its own state included.

Sources: Loshchilov & Hutter 2017 and 2019 (cosine schedule, AdamW); Karras et al. 2024 (arXiv 2312.02696, section 3.1:
averages whose memory grows with the training).
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.errors import UserError, check_bounds
from train.muon import Muon
from train.sharding import whole_norm

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 20

_warn = rank_zero_only(logger.warning)  # what all processes decide alike is told once


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW or Muon, the learning rate over time, and the average of the weights."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for matrices and kernels (`train.muon`): fewer, more expensive steps."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates of the gradient's mean and square."""
    weight_decay: float = 1e-3
    """Weight decay."""
    warmup_steps: int = 1_000
    """Steps over which the learning rate rises from 0."""
    decay_per_step: float = 1.0
    """Factor on the learning rate each step (exponential decay); 1 = none."""
    final_share: float = 1.0
    """Learning rate at trainer.max_steps relative to the peak, reached on half a cosine; 1 = constant."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, which are validated and exported; 0 = the weights themselves."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        check_bounds("optimiser.learning_rate", self.learning_rate, 0, 10)
        for beta in self.betas:
            check_bounds("optimiser.betas", beta, 0, 0.99999)
        check_bounds("optimiser.weight_decay", self.weight_decay, 0, 10)
        check_bounds("optimiser.warmup_steps", self.warmup_steps, 0, 10**9)
        check_bounds("optimiser.decay_per_step", self.decay_per_step, 0.5, 1)
        check_bounds("optimiser.final_share", self.final_share, 0, 1)
        check_bounds("optimiser.gradient_clip", self.gradient_clip, 1e-6, 1e6)
        check_bounds("optimiser.ema_decay", self.ema_decay, 0, 0.999999)


def learning_rate(config: OptimiserConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0, of a training of num_steps; see the header."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, num_steps))))
    shape = config.final_share + (1 - config.final_share) * cosine
    return config.learning_rate * warmup * config.decay_per_step**step * shape


def set_learning_rate(optimiser: Any, rate: float) -> None:
    """Let the next step have this learning rate; a group with a "scale" has that share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def make_optimiser(
    config: OptimiserConfig, *networks: nn.Module, decays: Callable[[str], bool] = lambda _: True
) -> torch.optim.Optimizer:
    """Return the optimiser of all weights of some networks.

    Args:
        decays: whether weight decay acts on a parameter of this name; AdamW only.

    Raises:
        UserError: Muon is asked for, and no network has a matrix that it could move.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.name == "muon":
        return Muon(*networks, **settings)
    named = [item for network in networks for item in network.named_parameters()]
    groups: list[dict[str, Any]] = [{"params": [parameter for name, parameter in named if decays(name)]}]
    if undecayed := [parameter for name, parameter in named if not decays(name)]:
        groups.append({"params": undecayed, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, fused=True, **settings)


def ema_of(network: nn.Module, decay: float) -> AveragedModel:
    """Return a frozen average of `network`: call `update_parameters(network)` after every optimiser step.

    The decay warms up as min(decay, (1 + n) / (10 + n)), so the average of a short run does not remember the
    initial weights. After the first update, which copies, n counts from 1.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        n = int(num_averaged)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]

    averaged = AveragedModel(network, multi_avg_fn=average)  # pyright: ignore[reportArgumentType]
    return averaged.eval().requires_grad_(False)


def finite_or_nan(loss: Tensor) -> Tensor:
    """Return the loss; where it is not finite, every gradient becomes NaN, even those that would be finite."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


def clip_or_drop(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients to a norm of at most max_norm, or drop all of them if their norm is not finite; return the norm.

    Gradients must be averaged over the processes by then: all of them clip, or drop, alike.
    """
    parameters = list(parameters)
    norm = whole_norm(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if not norm.isfinite():
        for parameter in parameters:
            parameter.grad = None
    return norm


class BadSteps:
    """Counts steps that were left out because a loss or gradient was not finite; a run of them ends the training."""

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0

    def count(self, step: int, found: Sequence[str]) -> None:
        """Count one step.

        Args:
            step: its number.
            found: what was not finite in it, in words; empty for a good step.

        Raises:
            UserError: too many steps in a row were bad.
        """
        self.in_a_row = self.in_a_row + 1 if found else 0
        if not found:
            return
        self.total += 1
        words = "; ".join(found)
        _warn("step %d skipped, loss or gradient not finite: %s (%d so far)", step, words, self.total)
        if self.in_a_row >= MAX_BAD_STEPS:
            raise UserError(
                f"{MAX_BAD_STEPS} steps in a row without a finite loss and gradient, at step {step} ({words}): "
                "lower optimiser.learning_rate to a tenth, or look for damaged audio; the last checkpoint is whole"
            )

    def state_dict(self) -> dict[str, int]:
        """Return both counts."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from a `state_dict`."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
