"""Guards against drift: what keeps an hour of sound as loud, as bright and as alive as its first seconds.

    pull       the statistics of what has left, channel by channel over the last seconds, are held inside a dead zone
               around the training set's (latents are normalised: mean 0, standard deviation 1): beyond it every
               estimate of the clean latents is shifted and scaled back by a share of the excess
    renoise    where the sound hardly moves any more, context and queue are noised again

Noise on the context and frames that stay in it (sink) are the queue's own: `FifoConfig.context_noise` and `sink`.

Tensors: latents, x, v (batch, channels, frames).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infer.samplers import Denoiser
from models.diffusion import alpha_sigma

STILL_SECONDS = 2.0
"""Time constant (s) of the movement's average."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Which guards are on, and where they begin to act."""

    pull: float = 0.0
    """Share, 0 to 1, of the excess over the dead zone that a step takes back; 0 is off."""
    mean_zone: float = 1.5
    """A channel's mean may lie so far from 0."""
    deviation_zone: float = 2.0
    """A channel's standard deviation may be at most so much, and its movement is never raised."""
    seconds: float = 10.0
    """Time constant of the statistics (s)."""
    renoise: bool = False
    """Whether to noise the queue again where the sound stands still."""
    renoise_below: float = 0.1
    """Standing still: the standard deviation in time, averaged over channels, is below this."""
    renoise_t: float = 0.5
    """Noise time that context and queue are brought back to."""
    renoise_every_seconds: float = 8.0
    """Shortest time (s) between two of them."""

    def __post_init__(self):
        for name, low, high in (("pull", 0, 1), ("renoise_t", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {getattr(self, name)}")
        for name in ("mean_zone", "deviation_zone", "seconds", "renoise_below", "renoise_every_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class DriftGuard:
    """A denoiser around another; it is told of every chunk that leaves.

    Args:
        frames_per_second: of the latents.
    """

    def __init__(self, denoiser: Denoiser, config: GuardConfig, frames_per_second: float):
        self.denoiser = denoiser
        self.config = config
        self.frames_per_second = frames_per_second
        self._weight = 0.0  # of what has left, 1 once the time constant is well past
        self._mean: Tensor | None = None  # (batch, channels, 1), running
        self._square: Tensor | None = None  # running mean square
        self._movement: Tensor | None = None  # running mean square of the difference between neighbouring frames
        self._last: Tensor | None = None  # last frame that left
        self._rest = 0.0  # seconds until the queue may be noised again

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.denoiser(x, t)
        correction = self._correction()
        if correction is None:
            return v
        scale, shift = correction
        alpha, sigma = (value.unsqueeze(-2) for value in alpha_sigma(t))  # (batch, 1, frames)
        denoised = alpha * x - sigma * v
        # A frame at t = 0 is context: nothing is predicted there.
        return v - ((scale - 1) * denoised + shift) / sigma.clamp(min=1e-3)

    def _correction(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of the clean latents, (batch, channels, 1); None where nothing is to be done."""
        config = self.config
        if not config.pull or self._mean is None or self._square is None or self._weight < 0.1:
            return None
        mean = self._mean / self._weight
        deviation = (self._square / self._weight - mean.square()).clamp(min=1e-8).sqrt()
        wanted_mean = mean.clamp(-config.mean_zone, config.mean_zone)
        wanted_scale = (config.deviation_zone / deviation).clamp(max=1.0)
        scale = 1 + config.pull * (wanted_scale - 1)
        shift = config.pull * (wanted_mean - wanted_scale * mean)
        return scale, shift

    def observe(self, chunk: Tensor) -> bool:
        """Take a chunk (batch, channels, frames) that left.

        Returns:
            Whether the sound stands still, so that the queue should be noised again to `config.renoise_t`.
        """
        seconds = chunk.shape[-1] / self.frames_per_second
        keep = math.exp(-seconds / self.config.seconds)
        before = chunk[..., :1] if self._last is None else self._last
        difference = torch.cat((before, chunk), dim=-1).diff(dim=-1)
        self._mean = _running(self._mean, chunk.mean(dim=-1, keepdim=True), keep)
        self._square = _running(self._square, chunk.square().mean(dim=-1, keepdim=True), keep)
        movement = difference.square().mean(dim=(1, 2), keepdim=True) / 2
        self._movement = _running(self._movement, movement, math.exp(-seconds / STILL_SECONDS))
        self._weight = 1 - (1 - self._weight) * keep
        self._last = chunk[..., -1:].clone()
        self._rest -= seconds
        if not self.config.renoise or self._rest > 0 or self._weight < 0.2:
            return False
        if float(self._movement.max().sqrt()) >= self.config.renoise_below:
            return False
        self._rest = self.config.renoise_every_seconds
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard has seen."""
        return {"running": [self._weight, self._mean, self._square, self._movement, self._last, self._rest]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._weight, self._mean, self._square, self._movement, self._last, self._rest = state["running"]


def _running(before: Tensor | None, value: Tensor, keep: float) -> Tensor:
    """Exponential average that starts at 0; divided by its weight it has no bias."""
    return (1 - keep) * value if before is None else keep * before + (1 - keep) * value
