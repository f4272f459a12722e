"""Ordinary sampling that begins from the user's own sound: variation of a clip, and inpainting of a span of it.

Variation adds noise up to the noise time `strength` and denoises from there (Meng et al. 2022, SDEdit). Inpainting does
that inside a span and shows the network the frames around it as they are, at t = 0: a noise level per frame is what the
network was trained on. Outside of the span the sound itself is kept, sample for sample.

    audio (2, samples); latents (1, channels, frames)
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.hosts.host import Host
from infer.samplers import Denoiser
from models.diffusion import add_noise
from models.errors import UserError


@dataclass(frozen=True)
class Edit:
    """A sound to start from, which of its frames change, and how far they are noised first."""

    audio: Tensor
    """(2, samples)."""
    latents: Tensor
    """(1, channels, frames), the encoded audio."""
    span: tuple[int, int]
    """First changed frame, and the first one after them that is kept."""
    strength: float
    """Noise time that sampling starts at, above 0 (nothing changes) to 1 (nothing remains)."""

    @property
    def changed(self) -> Tensor:
        """Which frames change, (frames,) bool."""
        frames = torch.arange(self.latents.shape[-1], device=self.latents.device)
        return (frames >= self.span[0]) & (frames < self.span[1])

    def noised(self, noise: Tensor) -> Tensor:
        """Return what sampling starts from, given unit noise (batch, channels, frames)."""
        t = torch.full(noise.shape[::2], self.strength, device=noise.device)  # (batch, frames)
        return add_noise(self.latents.expand_as(noise), noise, t)

    def kept(self, latents: Tensor) -> Tensor:
        """Put the frames that do not change back into latents (batch, channels, frames)."""
        return torch.where(self.changed, latents, self.latents)

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """Show a denoiser the frames that do not change clean and at t = 0, whatever the sampler makes of them."""
        return lambda x, t: denoiser(self.kept(x), torch.where(self.changed, t, 0.0))

    def mixed(self, audio: Tensor, hop_length: int) -> Tensor:
        """Put the sound itself back where it does not change; audio (batch, 2, samples).

        At each border with kept sound the first frame inside the span fades from one to the other.
        """
        first, last = self.span
        sample = torch.arange(audio.shape[-1])
        weight = torch.ones(audio.shape[-1])
        if first > 0:
            weight = ((sample - first * hop_length) / hop_length).clamp(0, 1)
        if last < self.latents.shape[-1]:
            weight = torch.minimum(weight, ((last * hop_length - sample) / hop_length).clamp(0, 1))
        original = F.pad(self.audio, (0, audio.shape[-1] - self.audio.shape[-1]))
        return torch.where(weight > 0, weight * audio + (1 - weight) * original, original)


Span = tuple[float, float]


@torch.no_grad()
def make_edit(
    host: Host, audio: Tensor, seconds: float, inpaint: Span | None = None, strength: float | None = None
) -> Edit:
    """Encode the first `seconds` of audio (2, samples) as a clip to start from; what it lacks is silence.

    Args:
        inpaint: start and end (s) of the span that is made anew; None: everything changes.
        strength: noise time to start at; None: 1 inside a span, 0.7 for a variation.

    Raises:
        UserError: the span is not inside the clip, or strength is not in (0, 1].
    """
    strength = (0.7 if inpaint is None else 1.0) if strength is None else strength
    check_strength(strength)
    num_samples = max(1, round(seconds * host.sample_rate))
    audio = F.pad(audio[:, :num_samples], (0, max(0, num_samples - audio.shape[-1])))
    num_frames = math.ceil(num_samples / host.hop_length)
    span = (0, num_frames)
    if inpaint is not None:
        check_span(inpaint, seconds)
        frames_per_second = host.sample_rate / host.hop_length
        start, end = inpaint
        span = (math.floor(start * frames_per_second), min(num_frames, math.ceil(end * frames_per_second)))
    return Edit(audio, host.encode(audio.unsqueeze(0)), span, strength)


def check_strength(strength: float) -> None:
    """Refuse a strength outside of (0, 1]."""
    if not 0 < strength <= 1:
        raise UserError(f"strength must lie above 0 (no change) and at most at 1 (all new), got {strength:g}")


def check_span(span: Span, seconds: float = math.inf) -> None:
    """Refuse a span that is not a start and an end inside of a clip."""
    start, end = span
    if not 0 <= start < end <= seconds + 1e-6:
        inside = "of the clip" if math.isinf(seconds) else f"within the {seconds:g} s"
        raise UserError(f"inpaint must be a start and an end {inside}, got {start:g} and {end:g}")


def read_span(text: str) -> Span:
    """Read a span as people type it: 1.5,3 or "1.5, 3" or [1.5,3].

    Raises:
        UserError: it is not two rising numbers.
    """
    try:
        start, end = (float(number) for number in text.strip().strip("[]()").replace(",", " ").split())
    except ValueError:
        raise UserError(f"inpaint must be a start and an end in seconds, as in --inpaint 1.5,3, got {text!r}") from None
    check_span((start, end))
    return start, end
