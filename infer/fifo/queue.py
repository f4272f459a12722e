"""Endless generation: a queue of chunks at rising noise levels, of which the cleanest leaves at every shift.

    K finished frames | N chunks of c frames, noisiest last                          window K + N c

One shift: fresh noise enters at the right, s network calls move every chunk s steps towards clean, and the first chunk,
now exactly at t = 0, is emitted and becomes context. Memory does not depend on the length, and a chunk takes S = s N
steps from noise to sound. c = 1, s = 1 is the FIFO of the papers; K = 0, N = 1 is ordinary sampling; N = 1 with a
context is sliding-window continuation. Curved denoising is a warp of the time grid (`models.schedule`).

The core knows nothing of files, sound or prompts: it runs any denoiser (x, t) -> v with a noise time per frame.

Tensors: window (batch, channels, frames), t (batch, frames).

Sources: Kim et al. 2024 (FIFO-Diffusion), algorithm 1; InfiniteAudio 2025 (2506.03020); Ruhe et al. 2024 (rolling).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from infer.fifo.config import FifoConfig
from infer.samplers import Denoiser, StepCoefficients, draw_noise, step, step_coefficients
from models.diffusion import add_noise, alpha_sigma
from models.errors import UserError


class Fifo(Iterator[Tensor]):
    """The stream: `next` returns the next finished chunk (batch, channels, c), for ever or until `end_after`.

    The queue grows in from noise: the first chunk starts alone, and every s calls one more joins, until the first is
    clean. `continue_from` puts given latents in front of it, `start_from` fills it with a given clip.

    Args:
        denoiser: called with what the network sees of the window: context, then queue.
        generators: the source of noise, one CPU generator per stream in the batch.
        on_shift: called with the stream before the network calls for each chunk, when its place is known.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: FifoConfig,
        *,
        channels: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
        on_shift: Callable[["Fifo"], object] | None = None,
    ):
        self.denoiser = denoiser
        self.config = config
        self.generators = list(generators)
        self.device = torch.device(device)
        self.on_shift = on_shift
        self.num_context = 0
        """Context frames there are, at most K."""
        self.num_emitted = 0
        """Chunks that have left."""
        self._num_total: int | None = None  # chunks of the whole stream
        shape = len(self.generators), channels, config.window
        self._window = torch.zeros(shape, device=self.device)  # K context frames, the newest last; then the queue
        self._denoised = torch.zeros_like(self._window[..., config.num_context :])  # last estimate of queued frames
        self._context_t = torch.zeros(config.num_context, device=self.device)
        self._is_filled = False
        self._lag = config.num_chunks  # rounds of s calls until the front chunk is clean
        self._forget = False
        grid = config.grid()
        self._micro_steps = self._coefficients(grid)
        self._noise_t = torch.ones(config.queue_frames, device=self.device)
        # Levels of the queue's frames when a round begins.
        self._levels = grid[config.micro_steps :: config.micro_steps].repeat_interleave(config.chunk).to(self.device)

    @property
    def position(self) -> int:
        """Index of the queue's first frame among all that the stream makes."""
        return self.num_emitted * self.config.chunk

    @property
    def entered(self) -> int:
        """Index of the first frame that the network has not seen yet."""
        if not self._is_filled:
            return self.position
        return self.position + self.config.queue_frames - (0 if self._lag else self.config.chunk)

    def _coefficients(self, grid: Tensor) -> list[StepCoefficients]:
        """For every micro-step the coefficients of every frame of a full queue, (N c,)."""
        config = self.config
        table = step_coefficients(grid, config.sampler, config.eta).to(self.device)
        slot = torch.arange(config.num_chunks, device=self.device).repeat_interleave(config.chunk)  # (N c,)
        last_step = config.micro_steps * (slot + 1) - 1
        return [table.take(last_step - m) for m in range(config.micro_steps)]

    def end_after(self, num_chunks: int) -> None:
        """Let the stream be this many chunks long: no more than these enter, and at the end the queue runs empty."""
        if num_chunks < max(1, self.num_emitted):
            raise UserError(f"the stream cannot end after {num_chunks} chunks, {self.num_emitted} have left already")
        self._num_total = num_chunks

    def __next__(self) -> Tensor:
        config = self.config
        if self._num_total is not None and self.num_emitted >= self._num_total:
            raise StopIteration
        if self._lag == 0:
            self._shift_context()
            self._shift_queue()
            self._lag = 1
        elif not self._is_filled:
            for _ in range(config.num_chunks):
                self._shift_queue()
            self._is_filled = True
        if self.on_shift is not None:
            self.on_shift(self)
        while self._lag:
            self._lag -= 1
            self._round(self._lag)
        self.num_emitted += 1
        return self._window[..., config.num_context :][..., : config.chunk].clone()

    def _round(self, lag: int) -> None:
        """Move every chunk under way by one slot; the front chunk stands at slot `lag`."""
        config = self.config
        num_left = config.num_chunks
        if self._num_total is not None:
            num_left = min(num_left, self._num_total - self.num_emitted)
        num_active = min(config.num_chunks - lag, num_left)
        num_behind = num_left - num_active if config.preroll == "full" else 0
        for coefficients in self._micro_steps:
            span = coefficients.span(lag * config.chunk, (lag + num_active) * config.chunk)
            self._step(span, num_behind * config.chunk)

    def _shift_queue(self) -> None:
        """Drop the first chunk of the queue and put fresh noise at its end."""
        c = self.config.chunk
        queue = self._window[..., self.config.num_context :]
        for buffer in (queue, self._denoised):
            buffer[..., :-c] = buffer[..., c:].clone()
        queue[..., -c:] = draw_noise(self.generators, queue.shape[1], c, self.device)
        self._denoised[..., -c:] = 0.0

    def _shift_context(self) -> None:
        """Take the chunk that was emitted into the context, behind the frames that stay."""
        config, n = self.config, self.num_context
        size, sink = config.num_context, config.num_sink
        if n == size == sink:
            return
        frames = self._window[..., size - n : size + config.chunk].clone()
        frames[..., n:] = self._with_context_noise(frames[..., n:])
        t = torch.cat((self._context_t[size - n :], self._new_context_t(config.chunk)))
        excess = n + config.chunk - size
        if excess > 0:
            frames = torch.cat((frames[..., :sink], frames[..., sink + excess :]), dim=-1)
            t = torch.cat((t[:sink], t[sink + excess :]))
        self.num_context = len(t)
        self._window[..., size - len(t) : size] = frames
        self._context_t[size - len(t) :] = t

    def _new_context_t(self, num_frames: int) -> Tensor:
        return torch.full((num_frames,), self.config.context_noise, device=self.device)

    def _with_context_noise(self, frames: Tensor) -> Tensor:
        """Bring clean frames (batch, channels, frames) to the context's noise level."""
        if not self.config.context_noise:
            return frames
        noise = draw_noise(self.generators, frames.shape[1], frames.shape[2], self.device)
        return add_noise(frames, noise, self._new_context_t(1))

    @torch.no_grad()
    def _step(self, coefficients: StepCoefficients, num_behind: int) -> None:
        """Move the chunks under way by one step of the grid; one coefficient for each of their frames."""
        config = self.config
        num_active = len(coefficients.t)
        first = config.num_context - self.num_context
        t = torch.cat((self._context_t[first:], coefficients.t, self._noise_t[:num_behind]))  # (frames,)
        v = self.denoiser(self._window[..., first : first + len(t)], t.expand(len(self._window), -1))
        if self._forget:
            coefficients = replace(coefficients, extrapolation=torch.zeros_like(coefficients.extrapolation))
            self._forget = False
        queue = self._window[..., config.num_context :][..., :num_active]
        denoised = self._denoised[..., :num_active]
        noise = draw_noise(self.generators, queue.shape[1], num_active, self.device) if config.eta > 0 else None
        x_next, estimate = step(queue, v[..., self.num_context :][..., :num_active], denoised, coefficients, noise)
        queue.copy_(x_next)
        denoised.copy_(estimate)

    def continue_from(self, latents: Tensor) -> None:
        """Start the stream after given clean latents (batch, channels, frames), of which the last K are the context.

        Raises:
            UserError: the stream has begun, or batch or channels differ.
        """
        self._check_start("continue_from", latents)
        size = self.config.num_context
        self.num_context = n = min(size, latents.shape[-1])
        if n:
            self._window[..., size - n : size] = self._with_context_noise(latents[..., -n:].to(self._window))
            self._context_t[size - n :] = self._new_context_t(n)

    def start_from(self, clip: Tensor) -> None:
        """Start with the queue full of a given clean clip (batch, channels, N c), noised to the queue's levels.

        Raises:
            UserError: the stream has begun, or the clip has another shape.
        """
        self._check_start("start_from", clip)
        queue = self._window[..., self.config.num_context :]
        if clip.shape[-1] != queue.shape[-1]:
            raise ValueError(f"the clip must have {queue.shape[-1]} frames, the whole queue, got {clip.shape[-1]}")
        noise = draw_noise(self.generators, queue.shape[1], queue.shape[2], self.device)
        queue.copy_(add_noise(clip.to(queue), noise, self._levels.expand(len(queue), -1)))
        self._denoised.copy_(clip)
        self._is_filled, self._lag = True, 1

    def _check_start(self, name: str, latents: Tensor) -> None:
        batch, channels, _ = self._window.shape
        if self._is_filled:
            raise ValueError(f"{name} must come before the first chunk")
        if latents.ndim != 3 or latents.shape[:2] != (batch, channels):
            raise ValueError(f"latents must be ({batch}, {channels}, frames), got {tuple(latents.shape)}")

    def renoise(self, t: float = 0.5) -> None:
        """Make the stream free of where it is stuck: noise the context to t, and draw the noise above t anew.

        The frames about to leave keep what they have; those at t and above keep their estimate and get other noise.
        """
        if self._lag:
            return
        queue = self._window[..., self.config.num_context :]
        levels = torch.cat((torch.zeros_like(self._levels[: self.config.chunk]), self._levels))[: queue.shape[-1]]
        _, channels, frames = self._window.shape
        noise = draw_noise(self.generators, channels, frames, self.device)
        redrawn = add_noise(self._denoised, noise[..., self.config.num_context :], levels.expand(len(queue), -1))
        queue.copy_(torch.where(levels >= t, redrawn, queue))
        context = self._window[..., : self.config.num_context]
        before, after = self._context_t, self._context_t.clamp(min=t)
        (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(before), alpha_sigma(after)
        kept = alpha_next / alpha
        added = (sigma_next.square() - (kept * sigma).square()).clamp(min=0).sqrt()
        context.copy_(kept * context + added * noise[..., : self.config.num_context])
        self._context_t.copy_(after)
        self.forget_history()

    def forget_history(self) -> None:
        """Take the next step at first order: what the last ones saw no longer holds, as after another prompt."""
        self._forget = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next chunk depends on besides the denoiser."""
        return {
            "config": asdict(self.config),
            "tensors": [buffer.clone() for buffer in self._buffers()],
            "counts": [self.num_context, self.num_emitted, self._num_total, self._is_filled, self._lag, self._forget],
            "generators": [generator.get_state() for generator in self.generators],
        }

    def _buffers(self) -> tuple[Tensor, ...]:
        return self._window, self._denoised, self._context_t

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a stream where `state_dict` left it.

        Raises:
            UserError: the state is of another configuration, batch or number of channels.
        """
        if state["config"] != asdict(self.config):
            raise UserError(f"the state is of another configuration: {state['config']}, expected {asdict(self.config)}")
        shapes = tuple(state["tensors"][0].shape), tuple(self._window.shape)
        if shapes[0] != shapes[1]:
            raise UserError(f"the state has a window of shape {shapes[0]}, expected {shapes[1]}")
        for buffer, value in zip(self._buffers(), state["tensors"], strict=True):
            buffer.copy_(value)
        self.num_context, self.num_emitted, self._num_total, self._is_filled, self._lag, self._forget = state["counts"]
        for generator, generator_state in zip(self.generators, state["generators"], strict=True):
            generator.set_state(generator_state)
