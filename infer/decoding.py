"""Latents to sound as they come: streamed decoding, a look-ahead limiter, a fade at the end.

Chunks of latents (batch, channels, frames) go in, pieces of audio (batch, 2, samples) come out; joined, they are the
decoding of the whole, at a memory that does not depend on the length.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from infer.hosts.host import Host
from infer.limiter import Limiter
from models.errors import UserError

FADE_SECONDS = 0.02
"""Length of the fade where a sound is cut."""


class AudioDecoding(Protocol):
    """Latents in, audio out: `Decoding`, and what stands in its place."""

    def push(self, latents: Tensor, /) -> Tensor:
        """Take the next latents and return the audio that is ready, (batch, 2, samples >= 0)."""
        ...

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on where `state_dict` was taken."""
        ...


class Decoding:
    """Latents (batch, channels, frames) in, limited stereo audio (batch, 2, samples) out, on the CPU.

    `push` raises UserError where the decoded audio is not finite.
    """

    def __init__(self, host: Host, batch: int = 1):
        self._device = host.device
        self._decoder = host.decoder()
        self._limiter = BatchLimiter(batch)

    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames and return the audio that is ready."""
        return self._limiter.push(finite_audio(self._decoder.push(latents)))

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        last = self._limiter.push(finite_audio(self._decoder.finish()))
        return torch.cat((last, self._limiter.finish()), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        return {"decoder": self._decoder.state_dict(), "limiter": self._limiter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on whatever device."""
        self._decoder.load_state_dict(on_device(state["decoder"], self._device))
        self._limiter.load_state_dict(state["limiter"])


class BatchLimiter:
    """A limiter for each sound of a batch (batch, 2, samples); equal lengths stay equal."""

    def __init__(self, batch: int):
        self._limiters = [Limiter() for _ in range(batch)]

    def push(self, audio: Tensor) -> Tensor:
        """Take the next samples and return those whose gain is settled."""
        return torch.stack([limiter.push(one) for limiter, one in zip(self._limiters, audio, strict=True)])

    def finish(self) -> Tensor:
        """End the sounds: the remaining audio."""
        return torch.stack([limiter.finish() for limiter in self._limiters])

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next samples."""
        return {"limiters": [limiter.state_dict() for limiter in self._limiters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for limiter, limiter_state in zip(self._limiters, state["limiters"], strict=True):
            limiter.load_state_dict(limiter_state)


def on_device(values: Any, device: torch.device) -> Any:
    """Move all tensors in nested dicts and lists, as states are."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {name: on_device(value, device) for name, value in values.items()}
    if isinstance(values, list):
        return [on_device(value, device) for value in values]
    return values


def finite_audio(audio: Tensor) -> Tensor:
    """Take audio (batch, 1 or 2, samples) off the device, as stereo; UserError where it is not finite."""
    if not bool(torch.isfinite(audio).all()):
        raise UserError("the model made sound that is not finite: its weights are damaged or its training diverged")
    return audio.float().cpu().expand(-1, 2, -1)


def end_at(num_samples: int, done: int, piece: Tensor, fade_samples: int) -> Tensor:
    """Cut a piece (..., samples) that follows `done` samples where the whole has `num_samples`, and fade its end."""
    fade_samples = min(fade_samples, num_samples)
    piece = piece[..., : num_samples - done]
    if done + piece.shape[-1] <= num_samples - fade_samples:
        return piece
    left = num_samples - done - torch.arange(1, piece.shape[-1] + 1)  # samples that follow each one
    return piece * torch.sin((left / max(fade_samples, 1)).clamp(max=1) * (math.pi / 2)) ** 2
