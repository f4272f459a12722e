"""A guard against drift: what keeps an hour of sound as loud, as bright and as alive as its first seconds.

The statistics of what has left, channel by channel over the last seconds, are held inside a dead zone around an
anchor, the stream's own first seconds with its text: beyond it every estimate of the clean latents is shifted and
scaled back by a share of the excess.

Tensors: latents, x, v (batch, channels, frames); a guard is of one stream, batch 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infer.samplers import Denoiser
from models.diffusion import alpha_sigma
from models.errors import UserError

MAX_ZONE = 1000.0
MAX_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Whether the guard is on, and where it begins to act.

    It never acts where the model is told its true place in the piece, whose beginning and end differ from its middle,
    nor on the methods of others.
    """

    pull: float = 1.0
    """Share, 0 to 1, of the excess over the dead zone that a step takes back; 0 is off."""
    beginning_seconds: float = 4.0
    """Length (s) of the beginning that the rest is held to."""
    mean_zone: float = 0.3
    """A channel's mean may lie so many of the beginning's standard deviations from the beginning's mean."""
    deviation_zone: float = 2.0
    """A channel's standard deviation may be at most so many times the beginning's, and is never raised."""
    average_seconds: float = 4.0
    """Time constant (s) of the statistics."""

    def __post_init__(self):
        if not 0 <= self.pull <= 1:
            raise UserError(f"guard.pull must lie in [0, 1], got {self.pull}")
        bounds = {"mean_zone": MAX_ZONE, "deviation_zone": MAX_ZONE}
        bounds |= {"beginning_seconds": MAX_SECONDS, "average_seconds": MAX_SECONDS}
        for name, largest in bounds.items():
            if not 0 < getattr(self, name) <= largest:
                raise UserError(f"guard.{name} must lie above 0 and at most at {largest:g}, got {getattr(self, name)}")


class DriftGuard:
    """The statistics of one stream, and the correction that follows from them; told of every chunk that leaves.

    Args:
        frames_per_second: of the latents.
    """

    def __init__(self, config: GuardConfig, frames_per_second: float):
        self.config = config
        self.frames_per_second = frames_per_second
        self._anchor: tuple[Tensor, Tensor] | None = None  # mean and deviation (1, channels, 1) to be held
        self._held: tuple[Tensor, Tensor] | None = None  # scale and shift that stay as they are
        self._elapsed = 0.0  # seconds of the present text
        self._weight = 0.0  # of what has left, 1 once the time constant is well past
        self._mean: Tensor | None = None  # (1, channels, 1), running
        self._square: Tensor | None = None  # running mean square

    def correction(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of the clean latents, (1, channels, 1); None where nothing is to be done."""
        config = self.config
        if self._held is not None:
            return self._held
        if not config.pull or self._anchor is None or self._weight < 0.1:
            return None
        mean, deviation = self._statistics()
        middle, spread = self._anchor
        zone = config.mean_zone * spread
        wanted_mean = torch.clamp(mean, middle - zone, middle + zone)
        wanted_scale = (config.deviation_zone * spread / deviation).clamp(max=1.0)
        scale = 1 + config.pull * (wanted_scale - 1)
        shift = config.pull * (wanted_mean - wanted_scale * mean)
        return scale, shift

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what has left lately, (1, channels, 1)."""
        assert self._mean is not None
        assert self._square is not None
        mean = self._mean / self._weight
        return mean, (self._square / self._weight - mean.square()).clamp(min=1e-8).sqrt()

    def hold(self) -> None:
        """Pull from here on as now, whatever leaves: sound may fade, and what the pull kept down stays down."""
        if self._held is None:
            self._held = self.correction()

    def forget(self, after_seconds: float) -> None:
        """Begin anew in so many seconds: what was before is nothing to hold on to."""
        self._mean = self._square = self._anchor = self._held = None
        self._weight, self._elapsed = 0.0, -after_seconds

    def observe(self, chunk: Tensor) -> None:
        """Take a chunk (1, channels, frames) that left."""
        seconds = chunk.shape[-1] / self.frames_per_second
        keep = math.exp(-seconds / self.config.average_seconds)
        self._elapsed += seconds
        if self._elapsed > 0:
            self._mean = _running(self._mean, chunk.mean(dim=-1, keepdim=True), keep)
            self._square = _running(self._square, chunk.square().mean(dim=-1, keepdim=True), keep)
            self._weight = 1 - (1 - self._weight) * keep
            if self._anchor is None and self._elapsed >= self.config.beginning_seconds:
                self._anchor = self._statistics()

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard has seen."""
        return {
            "elapsed": self._elapsed,
            "weight": self._weight,
            "mean": self._mean,
            "square": self._square,
            "anchor": None if self._anchor is None else list(self._anchor),
            "held": None if self._held is None else list(self._held),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._elapsed, self._weight = state["elapsed"], state["weight"]
        self._mean, self._square = state["mean"], state["square"]
        self._anchor = None if state["anchor"] is None else (state["anchor"][0], state["anchor"][1])
        self._held = None if state["held"] is None else (state["held"][0], state["held"][1])


class GuardedDenoiser:
    """A denoiser around another: each stream in the batch is corrected as its own guard says."""

    def __init__(self, denoiser: Denoiser, guards: Sequence[DriftGuard]):
        self.denoiser = denoiser
        self.guards = guards

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.denoiser(x, t)
        corrections = [guard.correction() for guard in self.guards]
        if not any(corrections):
            return v
        streams = zip(corrections, x.split(1), t.split(1), v.split(1), strict=True)
        return torch.cat([v if found is None else _corrected(x, t, v, *found) for found, x, t, v in streams])


def _corrected(x: Tensor, t: Tensor, v: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the v whose estimate of the clean latents is scaled and shifted."""
    alpha, sigma = (value.unsqueeze(-2) for value in alpha_sigma(t))  # (batch, 1, frames)
    denoised = alpha * x - sigma * v
    # A frame at t = 0 is context: nothing is predicted there.
    return v - ((scale - 1) * denoised + shift) / sigma.clamp(min=1e-3)


def _running(before: Tensor | None, value: Tensor, keep: float) -> Tensor:
    """Exponential average that starts at 0; divided by its weight it has no bias."""
    return (1 - keep) * value if before is None else keep * before + (1 - keep) * value
