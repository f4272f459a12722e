"""A stream that continues the user's own sound.

The continuation is decoded behind the sound's own latents, so the decoder has no seam; in the output the sound itself
stands, sample for sample, until shortly before its end, where it fades into its own decoding.

Tensors: audio (batch, 2, samples); latents (batch, channels, frames).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infer.decoding import Decoding
from infer.hosts.host import Host
from models.errors import UserError

FADE_SECONDS = 0.1


@dataclass(frozen=True)
class Opening:
    """A sound that is continued."""

    audio: Tensor
    """(batch, 2, samples), whole frames of it."""
    latents: Tensor
    """(batch, channels, frames): its last ones."""


@torch.no_grad()
def open_with(host: Host, audio: Tensor, context: int) -> Opening:
    """Encode the end of a sound (batch, 2, samples), so that a queue with so many frames of context can continue it.

    What does not fill a frame is left out at its beginning. Beyond its end the encoder hears its mirror image: silence
    there would be a sound that stops.

    Raises:
        UserError: the sound is shorter than a frame, or not stereo.
    """
    hop = host.hop_length
    if audio.ndim != 3 or audio.shape[1] != 2 or audio.shape[2] < hop:
        raise UserError(f"the sound to continue must be (2, at least {hop} samples), got {tuple(audio.shape[1:])}")
    audio = audio[..., audio.shape[-1] % hop :].float().cpu()
    encoder = host.encoder()
    before, behind = (-(-max(samples, 0) // hop) for samples in encoder.context_samples)  # frames
    num_frames = min(max(context, _joint_frames(host)), audio.shape[-1] // hop)
    heard = audio[..., -(num_frames + before) * hop :]
    mirrored = torch.cat((heard, heard.flip(-1)[..., : behind * hop]), dim=-1).to(host.device)
    pieces = [encoder.push(piece).mean for piece in mirrored.split(host.sample_rate, dim=-1)]
    latents = torch.cat((*pieces, encoder.finish().mean), dim=-1)[..., : heard.shape[-1] // hop]
    return Opening(audio, latents[..., -num_frames:])


def _joint_frames(host: Host) -> int:
    """Frames that the audio depends on from the beginning of the cross-fade on."""
    return -(-round(FADE_SECONDS * host.sample_rate) // host.hop_length) + host.decoder().context_frames[0]


class ContinuedDecoding:
    """Latents behind those of an opening in, audio out: the opening first, or, if it is not heard, what follows it.

    Args:
        opening: None where a state is loaded.
    """

    def __init__(self, host: Host, batch: int, opening: Opening | None = None, is_heard: bool = True):
        self._decoding = Decoding(host, batch)
        self._ready = self._fade_from = torch.zeros(batch, 2, 0)  # audio that is ready; end of the opening
        self._num_skipped = 0  # samples of the decoding that are still to be left out
        self._num_faded = 0
        if opening is None:
            return
        num_samples = opening.audio.shape[-1]
        fade_samples = min(round(FADE_SECONDS * host.sample_rate), num_samples) if is_heard else 0
        latents = opening.latents[..., -_joint_frames(host) :]
        self._num_skipped = latents.shape[-1] * host.hop_length - fade_samples
        if is_heard:
            self._ready, self._fade_from = opening.audio.tensor_split([num_samples - fade_samples], dim=-1)
        self._ready = torch.cat((self._ready, self._join(self._decoding.push(latents))), dim=-1)

    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames and return the audio that is ready."""
        ready, self._ready = self._ready, self._ready[..., :0]
        return torch.cat((ready, self._join(self._decoding.push(latents))), dim=-1)

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        return torch.cat((self._ready, self._join(self._decoding.finish())), dim=-1)

    def _join(self, audio: Tensor) -> Tensor:
        """Leave out the decoding of the opening but for its end, to which the opening fades."""
        skipped = min(self._num_skipped, audio.shape[-1])
        self._num_skipped -= skipped
        audio = audio[..., skipped:]
        total = self._fade_from.shape[-1]
        original = self._fade_from[..., self._num_faded : self._num_faded + audio.shape[-1]]
        num_samples = original.shape[-1]
        if not num_samples:
            return audio
        weight = (torch.arange(num_samples) + self._num_faded + 0.5) / total
        self._num_faded += num_samples
        return torch.cat((torch.lerp(original, audio[..., :num_samples], weight), audio[..., num_samples:]), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        return {
            "decoding": self._decoding.state_dict(),
            "ready": self._ready,
            "fade_from": self._fade_from,
            "num_skipped": self._num_skipped,
            "num_faded": self._num_faded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._decoding.load_state_dict(state["decoding"])
        self._ready, self._fade_from = state["ready"], state["fade_from"]
        self._num_skipped, self._num_faded = state["num_skipped"], state["num_faded"]
