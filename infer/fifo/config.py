"""What a queue is: its shape, its time grid, its sampler, its context."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from infer.samplers import Method, check_method
from models.checkpoint import has_part, load_config
from models.errors import UserError
from models.schedule import Focus, Thirds, skip_grid_of, time_grid

ContextMode = Literal["sliding", "frozen", "none"]
Preroll = Literal["short", "full"]
Curve = Literal["warp", "skip"]

IMPORTANCE = "importance"
"""Entry of a model's folder with the focus recommended for it."""


@dataclass(frozen=True, kw_only=True)
class FifoConfig:
    """Shape of the queue, its time grid and its sampler."""

    context: int = 32
    """Finished frames kept in front of the queue (K)."""
    chunk: int = 16
    """Frames that share a noise level and leave together (c); best a multiple of the U-Net's time stride."""
    num_chunks: int = 10
    """Chunks in the queue (N)."""
    micro_steps: int = 3
    """Network calls per shift (s); a chunk is denoised in s * N steps."""
    sampler: Method = "dpmpp_2m"
    """dpmpp_2m (second order), ddim, or dpmpp_2m_sde."""
    eta: float = 0.0
    """Share of fresh noise per step, 0 deterministic, 1 ancestral."""
    focus: Focus = "equal"
    """Third of the noise times that keeps its steps: initial (near noise), middle, last (near clean); or equal."""
    factor: float = 3.0
    """How much thinner the steps outside of the focus are (P)."""
    thirds: Thirds = "time"
    """Whether the three regions are equal in noise time or in log-SNR (log_snr)."""
    curve: Curve = "warp"
    """warp bends the grid; skip leaves steps of a finer equal grid out, as the paper words it."""
    context_mode: ContextMode = "sliding"
    """sliding: the last K frames; frozen: the first K frames for ever; none."""
    sink: int = 0
    """Of a sliding context so many frames stay the first ones for ever."""
    context_noise: float = 0.0
    """Noise time that the context is kept at, 0 clean."""
    preroll: Preroll = "short"
    """While the queue fills, the network sees the chunks under way (short), or pure noise behind them too (full)."""

    def __post_init__(self):
        for name, least in (("context", 0), ("chunk", 1), ("num_chunks", 1), ("micro_steps", 1), ("sink", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.sink > self.num_context:
            raise UserError(f"sink must be at most the {self.num_context} frames of context, got {self.sink}")
        if not 0 <= self.context_noise < 1:
            raise UserError(f"context_noise must lie in [0, 1), got {self.context_noise}")
        if self.curve == "skip" and self.thirds != "time":
            raise UserError("the skip form of a curve has thirds in time, got thirds log_snr: use the warp")
        check_method(self.sampler, self.eta)

    @property
    def num_steps(self) -> int:
        """Steps S that a chunk takes from noise to clean."""
        return self.micro_steps * self.num_chunks

    @property
    def num_context(self) -> int:
        """Context frames that the mode leaves."""
        return 0 if self.context_mode == "none" else self.context

    @property
    def num_sink(self) -> int:
        """Context frames that never change once they are there."""
        return self.num_context if self.context_mode == "frozen" else self.sink

    @property
    def queue_frames(self) -> int:
        """Frames of a full queue, which is also the lead time: from noise to sound."""
        return self.num_chunks * self.chunk

    @property
    def window(self) -> int:
        """Frames that a network call sees once the queue is full."""
        return self.num_context + self.queue_frames

    def grid(self) -> Tensor:
        """Return the num_steps + 1 noise times that a chunk passes, rising from 0 to 1."""
        if self.curve == "skip":
            return skip_grid_of(self.num_steps, self.focus, self.factor)
        return time_grid(self.num_steps, self.focus, self.factor, self.thirds)


def recommended_focus(model: Path) -> Focus:
    """Return the focus that `infer.importance` wrote into a model's folder.

    Raises:
        UserError: it has not been run on this model.
    """
    if not has_part(model, IMPORTANCE):
        raise UserError(f"{model} has no recommended focus, run: python -m infer.importance --model {model}")
    return load_config(model, IMPORTANCE)["focus"]
