"""Guards against drift: what keeps an hour of sound as loud, as bright and as alive as its first seconds.

    pull       the statistics of what has left, channel by channel over the last seconds, are held inside a dead zone
               around an anchor, the stream's own first seconds or the training set (latents are normalised: mean 0,
               standard deviation 1): beyond it every estimate of the clean latents is shifted and scaled back by a
               share of the excess
    renoise    where the sound hardly moves any more, context and queue are noised again

Noise on the context and frames that stay in it (sink) are the queue's own: `FifoConfig.context_noise` and `sink`.

Tensors: latents, x, v (batch, channels, frames).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from infer.samplers import Denoiser
from models.diffusion import alpha_sigma
from models.errors import UserError

Anchor = Literal["beginning", "training"]

STILL_SECONDS = 2.0
"""Time constant (s) of the movement's average."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Which guards are on, and where they begin to act."""

    pull: float | None = None
    """Share, 0 to 1, of the excess over the dead zone that a step takes back; 0 is off. None: 1 for the method fifo, as
    strong as it then is from where the model is told of the piece's end; 0 for those it is compared with."""
    anchor: Anchor = "beginning"
    """What the statistics are held to: the stream's first seconds with a text (beginning), or mean 0 and standard
    deviation 1 (training)."""
    beginning_seconds: float = 4.0
    """How long the beginning is (s)."""
    mean_zone: float = 0.3
    """A channel's mean may lie so many of the anchor's standard deviations from the anchor's mean."""
    deviation_zone: float = 2.0
    """A channel's standard deviation may be at most so many times the anchor's, and its movement is never raised."""
    seconds: float = 4.0
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
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{name} must lie in [{low}, {high}], got {value}")
        for name in (
            *("beginning_seconds", "mean_zone", "deviation_zone", "seconds"),
            *("renoise_below", "renoise_every_seconds"),
        ):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")


class DriftGuard:
    """A denoiser around another; it is told of every chunk that leaves.

    Args:
        frames_per_second: of the latents.
    """

    def __init__(self, denoiser: Denoiser, config: GuardConfig, frames_per_second: float):
        self.denoiser = denoiser
        self.config = config
        self.frames_per_second = frames_per_second
        self._anchor: tuple[Tensor, Tensor] | None = None  # mean and deviation (batch, channels, 1) to be held
        self._held: tuple[Tensor, Tensor] | None = None  # scale and shift that stay as they are
        self._elapsed = 0.0  # seconds of the present text
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
        """Mean and standard deviation of what has left lately, (batch, channels, 1)."""
        assert self._mean is not None
        assert self._square is not None
        mean = self._mean / self._weight
        return mean, (self._square / self._weight - mean.square()).clamp(min=1e-8).sqrt()

    def hold(self) -> None:
        """Pull from here on as now, whatever leaves: sound may fade, and what the pull kept down stays down."""
        if self._held is None:
            self._held = self._correction()

    def forget(self, after_seconds: float) -> None:
        """Begin anew in so many seconds: what was before is nothing to hold on to."""
        self._mean = self._square = self._anchor = self._held = None
        self._weight, self._elapsed = 0.0, -after_seconds

    def observe(self, chunk: Tensor) -> bool:
        """Take a chunk (batch, channels, frames) that left.

        Returns:
            Whether the sound stands still, so that the queue should be noised again to `config.renoise_t`.
        """
        seconds = chunk.shape[-1] / self.frames_per_second
        keep = math.exp(-seconds / self.config.seconds)
        self._elapsed += seconds
        if self._elapsed > 0:
            self._mean = _running(self._mean, chunk.mean(dim=-1, keepdim=True), keep)
            self._square = _running(self._square, chunk.square().mean(dim=-1, keepdim=True), keep)
            self._weight = 1 - (1 - self._weight) * keep
            if self._anchor is None:
                self._anchor = self._new_anchor()
        before = chunk[..., :1] if self._last is None else self._last
        difference = torch.cat((before, chunk), dim=-1).diff(dim=-1)
        movement = difference.square().mean(dim=(1, 2), keepdim=True) / 2
        self._movement = _running(self._movement, movement, math.exp(-seconds / STILL_SECONDS))
        self._last = chunk[..., -1:].clone()
        self._rest -= seconds
        if not self.config.renoise or self._rest > 0 or self._elapsed < 0.2 * self.config.seconds:
            return False
        if float(self._movement.max().sqrt()) >= self.config.renoise_below:
            return False
        self._rest = self.config.renoise_every_seconds
        return True

    def _new_anchor(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation to be held from now on; None while the beginning lasts."""
        mean, deviation = self._statistics()
        if self.config.anchor == "training":
            return torch.zeros_like(mean), torch.ones_like(deviation)
        return None if self._elapsed < self.config.beginning_seconds else (mean, deviation)

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard has seen."""
        running = [self._weight, self._mean, self._square, self._movement, self._last, self._rest]
        anchor, held = (list(pair or ()) for pair in (self._anchor, self._held))
        return {"running": running, "anchor": anchor, "held": held, "elapsed": self._elapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._weight, self._mean, self._square, self._movement, self._last, self._rest = state["running"]
        self._anchor, self._elapsed = tuple(state["anchor"]) or None, state["elapsed"]
        self._held = tuple(state.get("held", ())) or None  # states of before this was kept have none


def _running(before: Tensor | None, value: Tensor, keep: float) -> Tensor:
    """Exponential average that starts at 0; divided by its weight it has no bias."""
    return (1 - keep) * value if before is None else keep * before + (1 - keep) * value
