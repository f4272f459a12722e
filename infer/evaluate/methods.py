"""What endless generation is compared with, as plans of the same stream with the same number of steps.

    plain-fifo    c = 1, s = 1, equal steps, first order, no context: FIFO-Diffusion without partitions
    slide         N = 1: half a window is made at a time, behind the half before it (inpainting)
    concatenate   K = 0, N = 1: clips that know nothing of each other, decoded one by one and put end to end
    crossfade     the same, overlapping

The methods that `infer.fifo` plays itself stand in `infer.fifo.methods`.

Tensors: latents (batch, channels, frames), audio (batch, 2, samples).
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from infer.decoding import BatchLimiter, finite_audio
from infer.fifo import methods
from infer.fifo.config import StreamConfig
from infer.fifo.methods import Method, Plan
from infer.fifo.stream import EndlessStream
from infer.hosts.host import Host
from infer.samplers import SamplingConfig
from models.errors import UserError
from models.queue import QueueConfig

ComparedMethod = Method | Literal["plain-fifo", "slide", "crossfade", "concatenate"]
CLIP_METHODS = ("crossfade", "concatenate")
CROSSFADE_SECONDS = 1.0


def plan_of(
    method: ComparedMethod,
    queue: QueueConfig,
    sampling: SamplingConfig,
    host: Host,
    crossfade_seconds: float = CROSSFADE_SECONDS,
) -> Plan:
    """Return the plan of a method, made from the queue of endless generation."""
    if method in ("fifo", "infinite-audio", "fifo-diffusion"):
        return methods.plan_of(method, queue, sampling)
    if method == "plain-fifo":
        single = QueueConfig(context_frames=0, chunk_frames=1, num_chunks=queue.queue_frames, steps_per_shift=1)
        return Plan(queue=single, grid=SamplingConfig().grid(single.num_steps), sampler="ddim")
    window = host.window_frames
    known = 0 if method in CLIP_METHODS else window // 2
    whole = QueueConfig(
        context_frames=known, chunk_frames=window - known, num_chunks=1, steps_per_shift=queue.num_steps
    )
    plan = Plan(queue=whole, grid=sampling.grid(whole.num_steps), sampler=sampling.sampler, eta=sampling.eta)
    if method not in CLIP_METHODS:
        return plan
    overlap = round(crossfade_seconds * host.sample_rate) if method == "crossfade" else 0
    clip_samples = window * host.hop_length
    if not 0 <= 2 * overlap <= clip_samples:
        raise UserError(f"crossfade_seconds must be at most half a clip, got {crossfade_seconds:g}")
    return replace(
        plan,
        decoding=partial(ClipDecoding, overlap_samples=overlap),
        position=(0.0, clip_samples / host.sample_rate),  # every clip is a piece of its own
        overlap_samples=overlap,
    )


def compared_stream(
    host: Host,
    prompts: str | list[str],
    config: StreamConfig,
    method: ComparedMethod,
    seeds: int | list[int] = 0,
    crossfade_seconds: float = CROSSFADE_SECONDS,
) -> EndlessStream:
    """Return the stream of a method, everything else being as configured."""
    queue = config.queue.of(host.queues[0])
    plan = plan_of(method, queue, config.sampling, host, crossfade_seconds)
    return EndlessStream(host, prompts, config, seeds=seeds, plan=plan)


class ClipDecoding:
    """Clips of latents in, each decoded for itself; audio out, neighbours overlapping by a crossfade of equal power."""

    def __init__(self, host: Host, batch: int, overlap_samples: int):
        self.host = host
        self.overlap_samples = overlap_samples
        self._limiter = BatchLimiter(batch)
        self._tail = torch.zeros(batch, 2, 0)  # overlap samples of the last clip

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Take the next clip and return the audio that is ready."""
        audio = finite_audio(self.host.decode(latents))
        overlap = self.overlap_samples
        if self._tail.shape[-1]:
            angle = (torch.arange(overlap) + 0.5) / max(overlap, 1) * (math.pi / 2)
            mixed = angle.cos() * self._tail + angle.sin() * audio[..., :overlap]
            audio = torch.cat((mixed, audio[..., overlap:]), dim=-1)
        end = audio.shape[-1] - overlap
        self._tail = audio[..., end:]
        return self._limiter.push(audio[..., :end])

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        return torch.cat((self._limiter.push(self._tail), self._limiter.finish()), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next clip."""
        return {"tail": self._tail, "limiter": self._limiter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._tail = state["tail"]
        self._limiter.load_state_dict(state["limiter"])
