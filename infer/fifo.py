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

from infer.samplers import Denoiser, Method, StepCoefficients, check_method, draw_noise, step, step_coefficients
from models.diffusion import alpha_sigma
from models.schedule import Focus, time_grid

ContextMode = Literal["sliding", "frozen", "none"]


@dataclass(frozen=True, kw_only=True)
class FifoConfig:
    """Shape of the queue, its time grid and its sampler."""

    context: int = 32
    """Finished frames kept in front of the queue (K)."""
    chunk: int = 16
    """Frames that share a noise level and leave together (c); best a multiple of the U-Net's time stride."""
    num_chunks: int = 8
    """Chunks in the queue (N)."""
    micro_steps: int = 4
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

    The queue grows in from noise: the first chunk starts alone, and one more joins at every shift, so the first sound
    costs half of a full queue's work. `continue_from` puts given latents in front of it.

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
        self._window = torch.zeros(shape, device=self.device)  # queue at the right, context in front of it
        self._denoised = torch.zeros(shape, device=self.device)  # each frame's last denoised estimate
        self._num_context = 0
        self._num_chunks = 0
        self._forget = False
        self._micro_steps = self._coefficients()
        self._context_t = torch.full((config.num_context,), config.context_noise, device=self.device)
        self._context_alpha, self._context_sigma = (
            value.item() for value in alpha_sigma(torch.tensor(config.context_noise, dtype=torch.float64))
        )

    def _coefficients(self) -> list[StepCoefficients]:
        """For every micro-step the coefficients of every queue frame, (N c,)."""
        config = self.config
        levels = time_grid(config.num_steps, config.focus, config.factor)
        table = step_coefficients(levels, config.sampler, config.eta).to(self.device)
        slot = torch.arange(config.num_chunks, device=self.device).repeat_interleave(config.chunk)  # (N c,)
        last_step = config.micro_steps * (slot + 1) - 1
        return [table.take(last_step - m) for m in range(config.micro_steps)]

    def __next__(self) -> Tensor:
        while True:
            self._push_noise()
            for coefficients in self._micro_steps:
                self._step(coefficients)
            if self._num_chunks == self.config.num_chunks:
                return self._emit()

    def _push_noise(self) -> None:
        """Shift the window by one chunk and put fresh noise at its end; an emitted chunk turns into context."""
        config, c = self.config, self.config.chunk
        emitted = self._num_chunks == config.num_chunks
        full = emitted and self._num_context == config.num_context
        first = config.num_context if full and config.context_mode == "frozen" else 0
        for buffer in (self._window, self._denoised):
            buffer[..., first:-c] = buffer[..., first + c :].clone()
        noise = draw_noise(self.generators, self._window.shape[1], c, self.device)
        self._window[..., -c:] = noise
        self._denoised[..., -c:] = 0.0
        if not emitted:
            self._num_chunks += 1
        elif not first:
            kept = min(self._num_context + c, config.num_context)
            if config.context_noise and kept:
                self._add_context_noise(min(c, kept))
            self._num_context = kept

    def _add_context_noise(self, num_frames: int) -> None:
        """Bring the newest context frames to the context's noise level."""
        end = self.config.num_context
        newest = self._window[..., end - num_frames : end]
        noise = draw_noise(self.generators, newest.shape[1], num_frames, self.device)
        newest.mul_(self._context_alpha).add_(noise, alpha=self._context_sigma)

    @torch.no_grad()
    def _step(self, coefficients: StepCoefficients) -> None:
        """Move every chunk in the queue by one step of the grid."""
        num_queued = self._num_chunks * self.config.chunk
        queued = coefficients.last(num_queued)
        t = torch.cat((self._context_t[: self._num_context], queued.t))  # (frames,)
        x = self._window[..., -len(t) :]
        v = self.denoiser(x, t.expand(len(x), -1))
        if self._forget:
            queued = replace(queued, extrapolation=torch.zeros_like(queued.extrapolation))
            self._forget = False
        queue, denoised = self._window[..., -num_queued:], self._denoised[..., -num_queued:]
        noise = None
        if self.config.eta > 0:
            noise = draw_noise(self.generators, queue.shape[1], num_queued, self.device)
        x_next, estimate = step(queue, v[..., -num_queued:], denoised, queued, noise)
        queue.copy_(x_next)
        denoised.copy_(estimate)

    def _emit(self) -> Tensor:
        start = self.config.num_context
        return self._window[..., start : start + self.config.chunk].clone()

    def continue_from(self, latents: Tensor) -> None:
        """Start the stream after given clean latents (batch, channels, frames), of which the last K are the context.

        Raises:
            ValueError: the stream has begun, or batch or channels differ.
        """
        batch, channels, window = self._window.shape
        if self._num_chunks:
            raise ValueError("continue_from must come before the first chunk")
        if latents.ndim != 3 or latents.shape[:2] != (batch, channels):
            raise ValueError(f"latents must be ({batch}, {channels}, frames), got {tuple(latents.shape)}")
        self._num_context = min(self.config.num_context, latents.shape[-1])
        if not self._num_context:
            return
        context = latents[..., -self._num_context :].to(self._window)
        if self.config.context_noise:
            noise = draw_noise(self.generators, channels, self._num_context, self.device)
            context = self._context_alpha * context + self._context_sigma * noise
        self._window[..., window - self._num_context :] = context

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
