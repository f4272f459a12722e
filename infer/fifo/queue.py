"""Endless generation: a queue of chunks at rising noise levels, of which the cleanest leaves at every shift.

    K finished frames | N chunks of c frames, noisiest last                          window K + N c

One shift: fresh noise enters at the right, s network calls move every chunk s steps towards clean, and the first chunk,
now exactly at t = 0, is emitted and becomes context. Memory does not depend on the length, and a chunk takes S = s N
steps from noise to sound. c = 1, s = 1 is the FIFO of the papers; K = 0, N = 1 is ordinary sampling; N = 1 with a
context is sliding-window continuation.

The core knows nothing of files, sound or prompts: it runs any denoiser (x, t) -> v with a noise time per frame.

Tensors: window (batch, channels, frames), t (batch, frames).

Sources: Kim et al. 2024 (FIFO-Diffusion), algorithm 1; InfiniteAudio 2025 (2506.03020); Ruhe et al. 2024 (rolling).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from infer.samplers import Denoiser, Sampler, StepCoefficients, draw_noise, step, step_coefficients
from models.errors import UserError
from models.queue import QueueConfig


class Fifo(Iterator[Tensor]):
    """The stream: `next` returns the next finished chunk (batch, channels, c), for ever or until `end_after`.

    The queue grows in from noise: the first chunk starts alone, and every s calls one more joins, until the first is
    clean. `continue_from` puts given latents in front of it.

    Args:
        denoiser: called with what the network sees of the window: context, then queue.
        grid: (S + 1,) noise times that a chunk passes, rising from clean.
        eta: share of fresh noise per step, 0 deterministic, 1 ancestral.
        generators: the source of noise, one CPU generator per stream in the batch.
        on_shift: called with the stream before the network calls for each chunk, when its place is known.

    Raises:
        ValueError: the grid has another number of steps than the queue.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        queue: QueueConfig,
        grid: Tensor,
        *,
        sampler: Sampler = "dpmpp_2m",
        eta: float = 0.0,
        channels: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
        on_shift: Callable[["Fifo"], object] | None = None,
    ):
        if len(grid) != queue.num_steps + 1:
            raise ValueError(f"the grid must hold {queue.num_steps + 1} times for {queue}, got {len(grid)}")
        self.denoiser = denoiser
        self.queue = queue
        self.eta = eta
        self.generators = list(generators)
        self.device = torch.device(device)
        self.on_shift = on_shift
        self.num_context = 0
        """Context frames there are, at most K."""
        self.num_emitted = 0
        """Chunks that have left."""
        self._num_total: int | None = None  # chunks of the whole stream
        shape = len(self.generators), channels, queue.window_frames
        self._window = torch.zeros(shape, device=self.device)  # K context frames, the newest last; then the queue
        self._denoised = torch.zeros_like(self._window[..., queue.context_frames :])  # last estimate of queued frames
        self._is_filled = False
        self._lag = queue.num_chunks  # rounds of s calls until the front chunk is clean
        self._forget = torch.zeros(len(self.generators), dtype=torch.bool)  # streams whose next step is first order
        self._clean_t = float(grid[0])
        self._steps = self._coefficients(grid, sampler, eta)

    @property
    def position(self) -> int:
        """Index of the queue's first frame among all that the stream makes."""
        return self.num_emitted * self.queue.chunk_frames

    @property
    def entered(self) -> int:
        """Index of the first frame that the network has not seen yet."""
        if not self._is_filled:
            return self.position
        return self.position + self.queue.queue_frames - (0 if self._lag else self.queue.chunk_frames)

    def _coefficients(self, grid: Tensor, sampler: Sampler, eta: float) -> list[StepCoefficients]:
        """For every call of a shift the coefficients of every frame of a full queue, (N c,)."""
        queue = self.queue
        table = step_coefficients(grid, sampler, eta).to(self.device)
        slot = torch.arange(queue.num_chunks, device=self.device).repeat_interleave(queue.chunk_frames)  # (N c,)
        last_step = queue.steps_per_shift * (slot + 1) - 1
        return [table.take(last_step - call) for call in range(queue.steps_per_shift)]

    def end_after(self, num_chunks: int) -> None:
        """Let the stream be this many chunks long: no more than these enter, and at the end the queue runs empty."""
        if num_chunks < max(1, self.num_emitted):
            raise UserError(f"the stream cannot end after {num_chunks} chunks, {self.num_emitted} have left already")
        self._num_total = num_chunks

    def __next__(self) -> Tensor:
        queue = self.queue
        if self._num_total is not None and self.num_emitted >= self._num_total:
            raise StopIteration
        if self._lag == 0:
            self._shift_context()
            self._shift_queue()
            self._lag = 1
        elif not self._is_filled:
            for _ in range(queue.num_chunks):
                self._shift_queue()
            self._is_filled = True
        if self.on_shift is not None:
            self.on_shift(self)
        while self._lag:
            self._lag -= 1
            self._round(self._lag)
        self.num_emitted += 1
        return self._window[..., queue.context_frames :][..., : queue.chunk_frames].clone()

    def _round(self, lag: int) -> None:
        """Move every chunk under way by one slot; the front chunk stands at slot `lag`."""
        queue = self.queue
        num_left = queue.num_chunks
        if self._num_total is not None:
            num_left = min(num_left, self._num_total - self.num_emitted)
        num_active = min(queue.num_chunks - lag, num_left)
        for coefficients in self._steps:
            self._step(coefficients.span(lag * queue.chunk_frames, (lag + num_active) * queue.chunk_frames))

    def _shift_queue(self) -> None:
        """Drop the first chunk of the queue and put fresh noise at its end."""
        c = self.queue.chunk_frames
        queue = self._window[..., self.queue.context_frames :]
        for buffer in (queue, self._denoised):
            buffer[..., :-c] = buffer[..., c:].clone()
        queue[..., -c:] = draw_noise(self.generators, queue.shape[1], c, self.device)
        self._denoised[..., -c:] = 0.0

    def _shift_context(self) -> None:
        """Take the chunk that was emitted into the context, as its newest frames."""
        size, chunk = self.queue.context_frames, self.queue.chunk_frames
        frames = self._window[..., size - self.num_context : size + chunk]
        self.num_context = n = min(size, self.num_context + chunk)
        self._window[..., size - n : size] = frames[..., frames.shape[-1] - n :].clone()

    @torch.no_grad()
    def _step(self, coefficients: StepCoefficients) -> None:
        """Move the chunks under way by one step of the grid; one coefficient for each of their frames."""
        size, num_active = self.queue.context_frames, len(coefficients.t)
        first = size - self.num_context
        context_t = torch.full((self.num_context,), self._clean_t, device=self.device)
        t = torch.cat((context_t, coefficients.t))  # (frames,)
        v = self.denoiser(self._window[..., first : first + len(t)], t.expand(len(self._window), -1))
        if self._forget.any():
            forgotten = self._forget[:, None, None].to(self.device)
            extrapolation = coefficients.extrapolation.expand(len(self._window), 1, -1)
            coefficients = replace(coefficients, extrapolation=extrapolation.masked_fill(forgotten, 0.0))
            self._forget.fill_(False)
        queue = self._window[..., size:][..., :num_active]
        denoised = self._denoised[..., :num_active]
        noise = draw_noise(self.generators, queue.shape[1], num_active, self.device) if self.eta > 0 else None
        x_next, estimate = step(queue, v[..., self.num_context :][..., :num_active], denoised, coefficients, noise)
        queue.copy_(x_next)
        denoised.copy_(estimate)

    def continue_from(self, latents: Tensor) -> None:
        """Start the stream after given clean latents (batch, channels, frames), of which the last K are the context.

        Raises:
            ValueError: the stream has begun, or batch or channels differ.
        """
        batch, channels, _ = self._window.shape
        if self._is_filled:
            raise ValueError("continue_from must come before the first chunk")
        if latents.ndim != 3 or latents.shape[:2] != (batch, channels):
            raise ValueError(f"latents must be ({batch}, {channels}, frames), got {tuple(latents.shape)}")
        size = self.queue.context_frames
        self.num_context = n = min(size, latents.shape[-1])
        self._window[..., size - n : size] = latents[..., latents.shape[-1] - n :].to(self._window)

    def forget_history(self, stream: int | None = None) -> None:
        """Take the next step of one stream, or all, at first order: what the last ones saw no longer holds."""
        self._forget[slice(None) if stream is None else stream] = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next chunk depends on besides the denoiser; tensors have the batch first."""
        return {
            "queue": asdict(self.queue),
            "window": self._window.clone(),
            "denoised": self._denoised.clone(),
            "forget": self._forget.clone(),
            "num_context": self.num_context,
            "num_emitted": self.num_emitted,
            "num_total": self._num_total,
            "is_filled": self._is_filled,
            "lag": self._lag,
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a stream where `state_dict` left it.

        Raises:
            UserError: the state is of another queue, batch or number of channels.
        """
        if state["queue"] != asdict(self.queue):
            raise UserError(f"the state is of another queue: {state['queue']}, expected {asdict(self.queue)}")
        shapes = tuple(state["window"].shape), tuple(self._window.shape)
        if shapes[0] != shapes[1]:
            raise UserError(f"the state has a window of shape {shapes[0]}, expected {shapes[1]}")
        self._window.copy_(state["window"])
        self._denoised.copy_(state["denoised"])
        self._forget.copy_(state["forget"])
        self.num_context, self.num_emitted = state["num_context"], state["num_emitted"]
        self._num_total, self._is_filled, self._lag = state["num_total"], state["is_filled"], state["lag"]
        for generator, generator_state in zip(self.generators, state["generators"], strict=True):
            generator.set_state(generator_state)
