"""What every embedder has in common: sound of any length in, one vector for each of its windows out.

audio     (2, samples), 44,100 Hz
windows   (windows, channels, samples) as the network takes them (`Preprocessing`)
vectors   (windows, width); logits (windows, classes) of a network that also tags
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.audio import SAMPLE_RATE
from models.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a sound becomes the windows that a network takes; the defaults leave it as it is."""

    sample_rate: int
    """Hz."""
    channels: Literal["mean", "first", "stereo"] = "mean"
    """The mean of both channels, the first one alone, or both."""
    peak_db: float | None = None
    """Level that the largest sample is brought to (dBFS); None leaves it."""
    remove_mean: bool = False
    quantise: bool = False
    """Round to 16 bits."""
    window_seconds: float | None = None
    """None: the whole sound is one window."""
    hop_seconds: float = 0.0
    centre: bool = False
    """Begin half a window before the sound."""
    keep_rest: bool = True
    """Fill a last window that is not full with zeros; otherwise leave it out, unless it is the only one."""
    least_seconds: float = 0.0
    """Shorter sounds are filled with zeros."""

    def __call__(self, audio: Tensor) -> Tensor:
        """Turn audio (2, samples) at 44,100 Hz into (windows, channels, samples)."""
        if audio.ndim != 2 or audio.shape[0] != 2 or not audio.shape[1]:
            raise ValueError(f"audio must be (2, samples) and not empty, got {tuple(audio.shape)}")
        sound = audio.float().cpu()
        if self.channels != "stereo":
            sound = sound[:1] if self.channels == "first" else sound.mean(dim=0, keepdim=True)
        if self.remove_mean:
            sound = sound - sound.mean()
        sound = self._level(resample(sound, self.sample_rate))
        least = round(self.least_seconds * self.sample_rate)
        sound = F.pad(sound, (0, max(0, least - sound.shape[-1])))
        return self._cut(sound)

    def _level(self, sound: Tensor) -> Tensor:
        peak = float(sound.abs().max())
        if self.peak_db is not None and peak > 0:
            sound = sound * (10 ** (self.peak_db / 20) / peak)
        return (sound.clamp(-1, 1) * 32_767).trunc() / 32_767 if self.quantise else sound

    def _cut(self, sound: Tensor) -> Tensor:
        if self.window_seconds is None:
            return sound[None]
        window = round(self.window_seconds * self.sample_rate)
        hop = round(self.hop_seconds * self.sample_rate)
        if self.centre:
            sound = F.pad(sound, (window // 2, 0))
        length = sound.shape[-1]
        rest = max(0, length - window)
        num_windows = 1 + (-(-rest // hop) if self.keep_rest else rest // hop)
        needed = (num_windows - 1) * hop + window
        return F.pad(sound, (0, max(0, needed - length))).unfold(-1, window, hop).transpose(0, 1)


def resample(audio: Tensor, sample_rate: int) -> Tensor:
    """Resample (channels, samples) from 44,100 Hz, with soxr's best setting."""
    if sample_rate == SAMPLE_RATE:
        return audio
    resampled = soxr.resample(audio.numpy().T, SAMPLE_RATE, sample_rate, quality="VHQ")
    return torch.from_numpy(np.ascontiguousarray(resampled.T, dtype=np.float32))


@dataclass(frozen=True)
class Embedded:
    """What a network says of the windows of one sound, float32 on the CPU."""

    vectors: Tensor
    """(windows, width)."""
    logits: Tensor | None = None
    """(windows, classes) before softmax or sigmoid; None where the network tags nothing."""


class Embedder:
    """A network with its preprocessing.

    Args:
        name: in the registry.
        preprocessing: how sound becomes windows.
        network: windows (batch, channels, samples) to `Embedded`.
        text: prompts to vectors (batch, width) of the same space; None where there is no such.
        weights: hash of the weights by name, for the record.
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        network: nn.Module,
        *,
        text: Callable[[list[str]], Tensor] | None = None,
        weights: dict[str, str] | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
    ) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.network = network.to(device).eval().requires_grad_(False)
        self.weights = weights or {}
        self.device = torch.device(device)
        self.batch_size = batch_size
        self._text = text

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Embedded:
        """Embed audio (2, samples) at 44,100 Hz."""
        batches = self.preprocessing(audio).split(self.batch_size)
        results: list[Embedded] = [self.network(batch.to(self.device)) for batch in batches]
        logits = [result.logits for result in results if result.logits is not None]
        return Embedded(
            torch.cat([result.vectors.float().cpu() for result in results]),
            torch.cat(logits).float().cpu() if logits else None,
        )

    @torch.no_grad()
    def embed_text(self, prompts: list[str]) -> Tensor:
        """Embed prompts in the same space: (batch, width).

        Raises:
            UserError: the network knows no text.
        """
        if self._text is None:
            raise UserError(f"{self.name} embeds no text: use clap or laion-clap")
        return self._text(prompts).float().cpu()
