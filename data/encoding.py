"""Audio of any length through an autoencoder in pieces, at constant memory: to posteriors, to latents, and back.

The pieces join to exactly what the whole at once gives (`models.streaming`). Audio is (2, samples) float32 at
44,100 Hz, an array, a tensor or a file; a mono autoencoder gets it folded. Latents are normalised.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.audio import AudioFile, AudioReadError
from models.streaming import StreamingDecoder, StreamingEncoder
from models.vae import VAE, Posterior

Sound = np.ndarray | Tensor | AudioFile | Path

CPU_PIECE_SAMPLES = 1 << 16
"""Samples that pass a network at once on a CPU: fewer cost overhead, more leave its caches."""
ACCELERATOR_PIECE_SAMPLES = 1 << 20
_READ_SAMPLES = 1 << 20


def piece_samples(device: torch.device) -> int:
    """Samples that best pass a network at once on a device."""
    return CPU_PIECE_SAMPLES if device.type == "cpu" else ACCELERATOR_PIECE_SAMPLES


def cut(sound: Sound, length: int) -> Iterator[Tensor]:
    """Yield a sound in pieces (2, 1 to `length` samples) float32 on the CPU."""
    if isinstance(sound, Path):
        with AudioFile(sound) as file:
            yield from cut(file, length)
    elif isinstance(sound, AudioFile):
        for read in sound.pieces(_READ_SAMPLES):
            yield from cut(read, length)
    else:
        whole = torch.from_numpy(np.ascontiguousarray(sound)) if isinstance(sound, np.ndarray) else sound
        for start in range(0, whole.shape[-1], length):
            yield whole[..., start : start + length].float().cpu()


@torch.no_grad()
def stream_posteriors(vae: VAE, sound: Sound, length: int | None = None) -> Iterator[Posterior]:
    """Yield a sound's posterior piece by piece, (1, channels, frames >= 0) each.

    Args:
        length: samples that are encoded at once; none: what suits the device.
    """
    device = vae.latent_mean.device
    encoder = StreamingEncoder(vae)
    for piece in cut(sound, length or piece_samples(device)):
        yield encoder.push(vae.from_stereo(piece)[None].to(device))
    yield encoder.finish()


@torch.no_grad()
def encode(vae: VAE, sound: Sound) -> Tensor:
    """Return the mean of a sound's posterior, (1, channels, frames), on the VAE's device."""
    return torch.cat([posterior.mean for posterior in stream_posteriors(vae, sound)], dim=-1)


def encode_clip(vae: VAE, sound: Sound, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and std of a clip's posterior, each (frames, channels) float16.

    Raises:
        AudioReadError: they do not fit into float16, because the sound is far beyond full scale.
    """
    parts = list(stream_posteriors(vae, sound, length))
    mean, std = (
        torch.cat([getattr(part, name)[0] for part in parts], dim=1).T.half().cpu() for name in ("mean", "std")
    )
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise AudioReadError(
            "its latents are not finite in half precision: the sound is far beyond full scale, "
            "or the autoencoder's weights are damaged"
        )
    return mean.numpy(), std.numpy()


@torch.no_grad()
def reconstruct(vae: VAE, sound: Sound, length: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass a sound through the autoencoder and back, with the posterior's mean as latents.

    Yields:
        Original and reconstruction of the same stretch of time, (audio_channels, samples) each on the CPU; joined,
        they are as long as the sound.
    """
    device = vae.latent_mean.device
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    waiting = _Waiting()
    for piece in cut(sound, length or piece_samples(device)):
        audio = vae.from_stereo(piece)
        waiting.push(audio)
        made = decoder.push(encoder.push(audio[None].to(device)).mean)[0].cpu()
        if made.shape[-1]:
            yield waiting.take(made.shape[-1]), made
    rest = torch.cat((decoder.push(encoder.finish().mean), decoder.finish()), dim=-1)[0].cpu()
    num_samples = waiting.num_samples  # the rest is longer by the last frame's padding
    yield waiting.take(num_samples), rest[:, :num_samples]


class _Waiting:
    """Audio that is read but not yet reconstructed, first in, first out."""

    def __init__(self) -> None:
        self._pieces: deque[Tensor] = deque()
        self.num_samples = 0

    def push(self, audio: Tensor) -> None:
        """Add (channels, samples) at the end."""
        self._pieces.append(audio)
        self.num_samples += audio.shape[-1]

    def take(self, num_samples: int) -> Tensor:
        """Remove and return (channels, num_samples) from the front."""
        audio = torch.cat(tuple(self._pieces), dim=-1)
        self._pieces.clear()
        self.num_samples = 0
        self.push(audio[:, num_samples:].clone())
        return audio[:, :num_samples]


def silence_posterior(vae: VAE) -> tuple[list[float], list[float]]:
    """Return the posterior's mean and std per channel in the middle of silence."""
    mean, std = encode_clip(vae, np.zeros((2, 64 * vae.hop_length), np.float32))
    return mean[len(mean) // 2].tolist(), std[len(std) // 2].tolist()


def fingerprint(vae: VAE) -> str:
    """Return a short hash of what latents depend on: the encoder's weights, the statistics, the hop length."""
    tensors = [value for name, value in vae.state_dict().items() if not name.startswith("decoder.")]
    parts = [f"{tuple(value.shape)}".encode() + value.cpu().float().numpy().tobytes() for value in tensors]
    digests = sorted(hashlib.sha256(part).digest() for part in parts)  # whatever the tensors are called
    return hashlib.sha256(b"".join(digests) + f"{vae.hop_length}".encode()).hexdigest()[:16]
