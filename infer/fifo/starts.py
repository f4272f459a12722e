"""How a stream begins other than from noise: behind the user's own sound, or from a generated clip.

The continuation is decoded behind the sound's own latents, so the decoder has no seam; in the output the sound itself
stands, sample for sample, until shortly before its end, where it fades into its own decoding.

Tensors: audio (2, samples); latents (1, channels, frames).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.audio import SAMPLE_RATE
from data.encoding import encode
from infer.stream import Decoding
from models.errors import UserError
from models.streaming import StreamingDecoder, StreamingEncoder
from models.vae import VAE

FADE_SECONDS = 0.1


@dataclass(frozen=True)
class Opening:
    """A sound that is continued."""

    audio: Tensor
    """(2, samples), whole frames of it."""
    latents: Tensor
    """(1, channels, frames): its last ones."""


@torch.no_grad()
def open_with(vae: VAE, audio: Tensor, context: int) -> Opening:
    """Encode the end of a sound (2, samples), so that a queue with so many frames of context can continue it.

    What does not fill a frame is left out at its beginning. Beyond its end the encoder hears its mirror image: silence
    there would be a sound that stops.

    Raises:
        UserError: the sound is shorter than a frame, or not stereo.
    """
    hop = vae.hop_length
    if audio.ndim != 2 or audio.shape[0] != 2 or audio.shape[1] < hop:
        raise UserError(f"the sound to continue must be (2, at least {hop} samples), got {tuple(audio.shape)}")
    audio = audio[:, audio.shape[1] % hop :].float().cpu()
    before, behind = (-(-max(samples, 0) // hop) for samples in StreamingEncoder(vae).context_samples)  # frames
    num_frames = min(max(context, _joint_frames(vae)), audio.shape[1] // hop)
    heard = audio[:, -(num_frames + before) * hop :]
    mirrored = torch.cat((heard, heard.flip(-1)[:, : behind * hop]), dim=-1)
    latents = encode(vae, mirrored)[..., : heard.shape[1] // hop]
    return Opening(audio, latents[..., -num_frames:])


def _joint_frames(vae: VAE) -> int:
    """Frames that the audio depends on from the beginning of the cross-fade on."""
    return -(-round(FADE_SECONDS * SAMPLE_RATE) // vae.hop_length) + StreamingDecoder(vae).context_frames[0]


class ContinuedDecoding:
    """Latents behind those of an opening in, audio out: the opening first, or, if it is not heard, what follows it.

    Args:
        opening: None where a state is loaded.
    """

    def __init__(self, vae: VAE, opening: Opening | None = None, is_heard: bool = True):
        self._decoding = Decoding(vae)
        self._ready = self._fade_from = torch.zeros(2, 0)  # audio that is ready; end of the opening
        self._num_skipped = 0  # samples of the decoding that are still to be left out
        self._num_faded = 0
        if opening is None:
            return
        fade_samples = min(round(FADE_SECONDS * SAMPLE_RATE), opening.audio.shape[1]) if is_heard else 0
        latents = opening.latents[..., -_joint_frames(vae) :]
        self._num_skipped = latents.shape[-1] * vae.hop_length - fade_samples
        if is_heard:
            self._ready, self._fade_from = opening.audio.tensor_split([opening.audio.shape[1] - fade_samples], dim=-1)
        self._ready = torch.cat((self._ready, self._join(self._decoding.push(latents))), dim=-1)

    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames and return the audio that is ready."""
        ready, self._ready = self._ready, self._ready[:, :0]
        return torch.cat((ready, self._join(self._decoding.push(latents))), dim=-1)

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        return torch.cat((self._ready, self._join(self._decoding.finish())), dim=-1)

    def _join(self, audio: Tensor) -> Tensor:
        """Leave out the decoding of the opening but for its end, to which the opening fades."""
        skipped = min(self._num_skipped, audio.shape[1])
        self._num_skipped -= skipped
        audio = audio[:, skipped:]
        total = self._fade_from.shape[1]
        original = self._fade_from[:, self._num_faded : self._num_faded + audio.shape[1]]
        num_samples = original.shape[1]
        if not num_samples:
            return audio
        weight = (torch.arange(num_samples) + self._num_faded + 0.5) / total
        self._num_faded += num_samples
        return torch.cat((torch.lerp(original, audio[:, :num_samples], weight), audio[:, num_samples:]), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        joint = [self._ready, self._fade_from, self._num_skipped, self._num_faded]
        return {"decoding": self._decoding.state_dict(), "joint": joint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._decoding.load_state_dict(state["decoding"])
        self._ready, self._fade_from, self._num_skipped, self._num_faded = state["joint"]


def repeat_first(clip: Tensor, num_frames: int) -> Tensor:
    """Lengthen a clip to num_frames by repeating its first frame. Source: Kim et al. 2024 (FIFO-Diffusion)."""
    first = clip[..., :1].expand(*clip.shape[:2], num_frames - clip.shape[-1])
    return torch.cat((first, clip), dim=-1)
