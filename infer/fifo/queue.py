"""Endless generation: a queue of chunks at rising noise levels, of which the cleanest leaves at every shift.

    K finished frames | N chunks of c frames, noisiest last                          window K + N c

One shift: fresh noise enters at the right, s network calls move every chunk s steps towards clean, and the first chunk,
now exactly at t = 0, is emitted and becomes context. Memory does not depend on the length, and a chunk takes S = s N
steps from noise to sound. c = 1, s = 1 is the FIFO of the papers; K = 0, N = 1 is ordinary sampling. Curved denoising
is a warp of the time grid (`models.schedule`).

The core knows nothing of files, sound or prompts: it runs any denoiser (x, t) -> v with a noise time per frame.

Tensors: window (batch, channels, frames), t (batch, frames).

Sources: Kim et al. 2024 (FIFO-Diffusion), algorithm 1; InfiniteAudio 2025 (2506.03020); Ruhe et al. 2024 (rolling).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from infer.samplers import (
    Denoiser,
    Method,
    StepCoefficients,
    check_method,
    draw_noise,
    step,
    step_coefficients,
)
from models.diffusion import alpha_sigma
from models.schedule import Focus, time_grid

ContextMode = Literal["sliding", "frozen", "none"]
Preroll = Literal["short", "full"]


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
    context_mode: ContextMode = "sliding"
    """sliding: the last K frames; frozen: the first K frames for ever; none."""
    context_noise: float = 0.0
    """Noise time that the context is kept at, 0 clean."""
    preroll: Preroll = "short"
    """While the queue fills, the network sees the chunks under way (short), or pure noise behind them too (full)."""

    def __post_init__(self):
        for name, least in (("context", 0), ("chunk", 1), ("num_chunks", 1), ("micro_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.context_noise < 1:
            raise ValueError(f"context_noise must lie in [0, 1), got {self.context_noise}")
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
    def window(self) -> int:
        """Frames that a network call sees once the queue is full."""
        return self.num_context + self.num_chunks * self.chunk


class Fifo(Iterator[Tensor]):
    """The stream: `next` returns the next finished chunk (batch, channels, c), for ever.

    The queue grows in from noise: the first chunk starts alone, and every s calls one more joins, until the first is
    clean. `continue_from` puts given latents in front of it.

    Args:
        denoiser: may be exchanged while the stream runs (`change_denoiser`).
        generators: the source of noise, one CPU generator per stream in the batch.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: FifoConfig,
        *,
        channels: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
    ):
        self.denoiser = denoiser
        self.config = config
        self.generators = list(generators)
        self.device = torch.device(device)
        shape = len(self.generators), channels, config.window
        self._window = torch.zeros(shape, device=self.device)  # K context frames, the newest last; then the queue
        self._denoised = torch.zeros_like(self._window[..., config.num_context :])  # last estimate of queued frames
        self._num_context = 0  # context frames there are, at most K
        self._num_chunks = 0  # chunks under way, from the front of the queue; those behind them are still noise
        self._forget = False
        self._micro_steps = self._coefficients()
        self._context_t = torch.full((config.num_context,), config.context_noise, device=self.device)
        self._noise_t = torch.ones(config.num_chunks * config.chunk, device=self.device)
        level = torch.tensor(config.context_noise, dtype=torch.float64)
        self._context_alpha, self._context_sigma = (value.item() for value in alpha_sigma(level))

    def _coefficients(self) -> list[StepCoefficients]:
        """For every micro-step the coefficients of every frame of a full queue, (N c,)."""
        config = self.config
        levels = time_grid(config.num_steps, config.focus, config.factor)
        table = step_coefficients(levels, config.sampler, config.eta).to(self.device)
        slot = torch.arange(config.num_chunks, device=self.device).repeat_interleave(config.chunk)  # (N c,)
        last_step = config.micro_steps * (slot + 1) - 1
        return [table.take(last_step - m) for m in range(config.micro_steps)]

    def __next__(self) -> Tensor:
        config = self.config
        if self._num_chunks == 0:
            for _ in range(config.num_chunks):
                self._shift_queue()
        else:
            self._shift_context()
            self._shift_queue()
        while True:
            self._num_chunks = min(self._num_chunks + 1, config.num_chunks)
            for coefficients in self._micro_steps:
                self._step(coefficients.last(self._num_chunks * config.chunk))
            if self._num_chunks == config.num_chunks:
                return self._window[..., config.num_context :][..., : config.chunk].clone()

    def _shift_queue(self) -> None:
        """Drop the first chunk of the queue and put fresh noise at its end."""
        c = self.config.chunk
        queue = self._window[..., self.config.num_context :]
        for buffer in (queue, self._denoised):
            buffer[..., :-c] = buffer[..., c:].clone()
        queue[..., -c:] = draw_noise(self.generators, queue.shape[1], c, self.device)
        self._denoised[..., -c:] = 0.0

    def _shift_context(self) -> None:
        """Take the chunk that was emitted into the context; a frozen one takes none once it is full."""
        config = self.config
        is_full = self._num_context == config.num_context
        if not config.num_context or (is_full and config.context_mode == "frozen"):
            return
        with_emitted = self._window[..., : config.num_context + config.chunk]
        self._window[..., : config.num_context] = with_emitted[..., -config.num_context :].clone()
        self._num_context = min(self._num_context + config.chunk, config.num_context)
        self._add_context_noise(min(config.chunk, config.num_context))

    def _add_context_noise(self, num_frames: int) -> None:
        """Bring the newest context frames to the context's noise level."""
        if self.config.context_noise and num_frames:
            newest = self._window[..., self.config.num_context - num_frames : self.config.num_context]
            noise = draw_noise(self.generators, newest.shape[1], num_frames, self.device)
            newest.mul_(self._context_alpha).add_(noise, alpha=self._context_sigma)

    @torch.no_grad()
    def _step(self, coefficients: StepCoefficients) -> None:
        """Move the chunks under way by one step of the grid; one coefficient for each of their frames."""
        config = self.config
        num_active = len(coefficients.t)
        num_behind = self._denoised.shape[-1] - num_active if config.preroll == "full" else 0
        first = config.num_context - self._num_context
        t = torch.cat((self._context_t[: self._num_context], coefficients.t, self._noise_t[:num_behind]))  # (frames,)
        v = self.denoiser(self._window[..., first : first + len(t)], t.expand(len(self._window), -1))
        if self._forget:
            coefficients = replace(coefficients, extrapolation=torch.zeros_like(coefficients.extrapolation))
            self._forget = False
        queue = self._window[..., config.num_context :][..., :num_active]
        denoised = self._denoised[..., :num_active]
        noise = draw_noise(self.generators, queue.shape[1], num_active, self.device) if config.eta > 0 else None
        x_next, estimate = step(queue, v[..., self._num_context :][..., :num_active], denoised, coefficients, noise)
        queue.copy_(x_next)
        denoised.copy_(estimate)

    def continue_from(self, latents: Tensor) -> None:
        """Start the stream after given clean latents (batch, channels, frames), of which the last K are the context.

        Raises:
            ValueError: the stream has begun, or batch or channels differ.
        """
        batch, channels, _ = self._window.shape
        if self._num_chunks:
            raise ValueError("continue_from must come before the first chunk")
        if latents.ndim != 3 or latents.shape[:2] != (batch, channels):
            raise ValueError(f"latents must be ({batch}, {channels}, frames), got {tuple(latents.shape)}")
        self._num_context = min(self.config.num_context, latents.shape[-1])
        if not self._num_context:
            return
        context = latents[..., -self._num_context :].to(self._window)
        end = self.config.num_context
        self._window[..., end - self._num_context : end] = context
        self._add_context_noise(self._num_context)

    def change_denoiser(self, denoiser: Denoiser) -> None:
        """Go on with another denoiser, for example another prompt; its first step is first order."""
        self.denoiser = denoiser
        self._forget = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next chunk depends on besides the denoiser."""
        return {
            "config": asdict(self.config),
            "window": self._window.clone(),
            "denoised": self._denoised.clone(),
            "num_context": self._num_context,
            "num_chunks": self._num_chunks,
            "forget": self._forget,
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a stream where `state_dict` left it.

        Raises:
            ValueError: the state is of another configuration, batch or number of channels.
        """
        if state["config"] != asdict(self.config):
            raise ValueError(
                f"the state is of another configuration: {state['config']}, expected {asdict(self.config)}"
            )
        if state["window"].shape != self._window.shape:
            shapes = tuple(state["window"].shape), tuple(self._window.shape)
            raise ValueError(f"the state has a window of shape {shapes[0]}, expected {shapes[1]}")
        self._window.copy_(state["window"])
        self._denoised.copy_(state["denoised"])
        self._num_context, self._num_chunks = state["num_context"], state["num_chunks"]
        self._forget = state["forget"]
        for generator, generator_state in zip(self.generators, state["generators"], strict=True):
            generator.set_state(generator_state)
