"""What endless generation is compared with, in terms of the same queue and with the same number of steps.

    plain-fifo    c = 1, s = 1, equal steps, DDIM, no context: FIFO-Diffusion (with `lookahead` its f/2 finished frames)
    infinite-audio  the same with context and with steps skipped outside of the focus: InfiniteAudio
    slide         N = 1: half a window is made at a time, behind the half before it (inpainting)
    concatenate   K = 0, N = 1: clips that know nothing of each other, decoded one by one and put end to end
    crossfade     the same, overlapping

Tensors: latents (1, channels, frames), audio (2, samples).
"""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from infer.fifo.config import FifoConfig
from infer.limiter import Limiter
from infer.stream import finite_audio
from models.vae import VAE

StreamMethod = Literal["fifo", "plain-fifo", "infinite-audio", "slide", "crossfade", "concatenate"]
CLIP_METHODS = ("crossfade", "concatenate")


def queue_of(method: StreamMethod, config: FifoConfig, window_frames: int, lookahead_frames: int = 0) -> FifoConfig:
    """Return the queue that a method is, made from that of endless generation.

    Args:
        window_frames: length of a clip that the model was trained on.
        lookahead_frames: finished frames that lookahead denoising wants in front of a plain queue.
    """
    if method == "fifo":
        return config
    alone = replace(config, context_mode="none", sink=0)
    if method in ("plain-fifo", "infinite-audio"):
        single = replace(config, chunk=1, num_chunks=config.queue_frames, micro_steps=1, sampler="ddim", eta=0.0)
        if method == "infinite-audio":
            return replace(single, curve="skip")
        return replace(single, context=lookahead_frames, context_mode="sliding", sink=0, focus="equal")
    whole = replace(alone, num_chunks=1, micro_steps=config.num_steps)
    if method in CLIP_METHODS:
        return replace(whole, chunk=window_frames)
    known = window_frames // 2
    return replace(whole, context_mode="sliding", context=known, chunk=window_frames - known)


class ClipDecoding:
    """Clips of latents in, each decoded for itself; audio out, neighbours overlapping by a crossfade of equal power."""

    def __init__(self, vae: VAE, overlap_samples: int):
        self.vae = vae
        self.overlap_samples = overlap_samples
        self._limiter = Limiter()
        self._tail: Tensor | None = None  # (2, overlap samples) of the last clip

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Take the next clip and return the audio that is ready."""
        audio = finite_audio(self.vae.decode(latents))
        overlap = self.overlap_samples
        if self._tail is not None:
            angle = (torch.arange(overlap) + 0.5) / max(overlap, 1) * (math.pi / 2)
            mixed = angle.cos() * self._tail + angle.sin() * audio[:, :overlap]
            audio = torch.cat((mixed, audio[:, overlap:]), dim=-1)
        end = audio.shape[1] - overlap
        self._tail = audio[:, end:]
        return self._limiter.push(audio[:, :end])

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        tail = torch.zeros(2, 0) if self._tail is None else self._tail
        return torch.cat((self._limiter.push(tail), self._limiter.finish()), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next clip."""
        return {"tail": self._tail, "limiter": self._limiter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._tail = state["tail"]
        self._limiter.load_state_dict(state["limiter"])
