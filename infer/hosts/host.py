"""What playing needs of a model. `models.text_to_audio.TextToAudio` is one; adapters of published models are others.

Tensors: latents (batch, latent_channels, frames), t (batch, frames), audio (batch, 2, samples), with 1 channel where a
model is mono. A 2-D latent is flattened to channels at this border, so that nobody else has a second case.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from models.device import Precision
from models.queue import QueueConfig
from models.texts import Text
from models.timing import Position


class Decoder(Protocol):
    """Latents in, the audio that they complete out."""

    @property
    def context_frames(self) -> tuple[int, int]:
        """Latent frames before and after a frame that its audio depends on."""
        ...

    def push(self, latents: Tensor, /) -> Tensor:
        """Take the next frames and return audio (batch, channels, samples >= 0)."""
        ...

    def finish(self) -> Tensor:
        """End the stream: the remaining audio."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on where `state_dict` was taken."""
        ...


class HasMean(Protocol):
    """A posterior over latents."""

    @property
    def mean(self) -> Tensor:
        """(batch, latent_channels, frames >= 0)."""
        ...


class Encoder(Protocol):
    """Audio (batch, channels, samples) in, the latents that it completes out."""

    @property
    def context_samples(self) -> tuple[int, int]:
        """Samples before and after a frame's own that it depends on."""
        ...

    def push(self, audio: Tensor, /) -> HasMean:
        """Take the next samples."""
        ...

    def finish(self) -> HasMean:
        """End the stream: the remaining latents."""
        ...


class Host(Protocol):
    """A model that can be played."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples of audio per latent frame."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of the audio (Hz)."""
        ...

    @property
    def window_frames(self) -> int:
        """Frames of the longest clip that ordinary sampling makes."""
        ...

    @property
    def queues(self) -> Sequence[QueueConfig]:
        """Queues that it is best played with, the default first."""
        ...

    @property
    def max_seconds(self) -> float | None:
        """Largest second that it can be told of; None: it is not conditioned on timing."""
        ...

    @property
    def known_seconds(self) -> float | None:
        """Length (s) up to which it knows pieces well; None: not known."""
        ...

    def noise_time(self, position: Tensor, /) -> Tensor:
        """Return t, rising, at positions 0 (clean) to 1 (noise) of its own noise schedule."""
        ...

    def rows(
        self, text: Text, position: Position, guidance_scale: float, content_scale: float, /
    ) -> Sequence[tuple[Any, float]]:
        """Return the conditionings, each a batch of one, whose predictions make up a text's, and their weights.

        The first one is the full condition. `null_row` takes the weight that is missing to 1: classifier-free guidance
        is one row with the weight guidance_scale, dual guidance three. A conditioning is opaque but for `cat(other)`,
        which joins two batches. The number of rows is the same for every text.
        """
        ...

    def null_row(self, negative_prompt: str | None, position: Position, /) -> Any:
        """Return the conditioning that guidance moves away from."""
        ...

    def network(self, latents: Tensor, t: Tensor, conditioning: Any, /) -> Tensor:
        """Predict v, in float32; one conditioning and the noise times of all frames for each row of the batch."""
        ...

    def prepare(self, precision: Precision, compile: bool) -> None:
        """Choose the number format in which `network` computes from now on, and whether it is compiled."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Decode whole clips."""
        ...

    def decoder(self) -> Decoder:
        """Return a new streamed decoding."""
        ...

    def encode(self, audio: Tensor, /) -> Tensor:
        """Encode whole stereo clips, the last frame padded with silence; UserError where it cannot."""
        ...

    def encoder(self) -> Encoder:
        """Return a new streamed encoding; UserError where it cannot encode."""
        ...

    def fingerprint(self) -> str:
        """Return digits that change with any weight, for saved streams."""
        ...
