"""Stable Audio Open as a host: a transformer over 1-D latents that predicts v in this project's own noise time.

Text and timing are tokens of the cross-attention; the two seconds also stand in front of the frames, joined to the
noise time's token, of which every chunk has its own here (`infer.hosts.chunk_times`). The autoencoder is the
published one in this project's layers, so that it streams exactly.

Source: Evans et al. 2024 (Stable Audio Open, 2407.14358), section 3.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infer.hosts.chunk_times import ChunkTimes
from infer.hosts.conditioning import NamedConditioning
from infer.hosts.pipelines import load_part, require_diffusers
from models.convert import convert
from models.device import Precision, autocast_to
from models.errors import UserError
from models.fingerprint import weights_fingerprint
from models.queue import QueueConfig
from models.streaming import StreamingDecoder, StreamingEncoder
from models.texts import NOT_SPEAKING, Blend, Spoken, Text, blend_tokens
from models.timing import Position
from models.vae import VAE


class StableAudioOpen(nn.Module):
    """A published Stable Audio Open."""

    queues = (QueueConfig(context_frames=64, chunk_frames=16, num_chunks=12, steps_per_shift=4),)

    def __init__(self, text_encoder: Any, tokenizer: Any, projection: Any, transformer: Any, vae: VAE):
        super().__init__()
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.projection = projection
        self.transformer = transformer
        self.vae = vae
        self._chunk_times = ChunkTimes(transformer)
        self._precision: Precision = "float32"

    @classmethod
    def load(cls, folder: Path) -> "StableAudioOpen":
        """Load the parts of a pipeline's folder; the autoencoder is converted."""
        diffusers = require_diffusers()
        from transformers import AutoTokenizer, T5EncoderModel

        return cls(
            text_encoder=load_part(folder, "text_encoder", T5EncoderModel),
            tokenizer=load_part(folder, "tokenizer", AutoTokenizer),
            projection=load_part(folder, "projection_model", diffusers.StableAudioProjectionModel),
            transformer=load_part(folder, "transformer", diffusers.StableAudioDiTModel),
            vae=convert(str(folder / "vae"))[0],
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.transformer.parameters()).device

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.transformer.config.in_channels

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.vae.hop_length

    @property
    def sample_rate(self) -> int:
        """Of the audio (Hz)."""
        return self.vae.config.sample_rate

    @property
    def window_frames(self) -> int:
        """Frames of the clips that it was trained on."""
        return self.transformer.config.sample_size

    @property
    def window_seconds(self) -> float:
        """Length (s) of the clips that it was trained on."""
        return self.window_frames * self.hop_length / self.sample_rate

    @property
    def max_seconds(self) -> float | None:
        """Largest second that it can be told of."""
        return float(self.projection.config.max_value)

    @property
    def known_seconds(self) -> float | None:
        """Length (s) up to which it knows pieces well: its window."""
        return self.window_seconds

    def noise_time(self, position: Tensor) -> Tensor:
        """Return t at positions 0 (clean) to 1 (noise): its own noise time is the same."""
        return position

    def rows(
        self,
        text: Text,
        position: Position,
        guidance_scale: float,
        content_scale: float = 0.0,
    ) -> list[tuple[NamedConditioning, float]]:
        """Return the one row of classifier-free guidance."""
        return [(self.condition(text, position), guidance_scale)]

    def null_row(self, negative_prompt: str | None, position: Position) -> NamedConditioning:
        """Return the row of the negative prompt, or zeros for all tokens, beside the same timing."""
        row = self.condition(negative_prompt or "", position)
        if negative_prompt:
            return row
        return NamedConditioning(dict(row.tensors) | {"text": torch.zeros_like(row.tensors["text"])})

    @torch.no_grad()
    def condition(self, text: Text, position: Position) -> NamedConditioning:
        """Embed a text and where in a piece the window stands; seconds that are not known are those of one window."""
        start, end = position
        seconds = (0.0 if start is None else start, self.window_seconds if end is None else end)
        start_tensor, end_tensor = (torch.tensor([value], device=self.device) for value in seconds)
        timing = self.projection(start_seconds=start_tensor, end_seconds=end_tensor)
        tokens = (timing.seconds_start_hidden_states, timing.seconds_end_hidden_states)  # each (1, 1, width)
        return NamedConditioning(
            {"text": torch.cat((self._tokens(text), *tokens), dim=1), "globals": torch.cat(tokens, dim=2)}
        )

    def _tokens(self, text: Text) -> Tensor:
        """Embed a text, (1, tokens, width), zeros behind its end as in training; a blend lies between its texts."""
        if isinstance(text, Blend):
            return blend_tokens(self._tokens(text.start), self._tokens(text.end), text.weight)
        if isinstance(text, Spoken):
            raise UserError(NOT_SPEAKING)
        tokens = self.tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).to(self.device)
        hidden = self.text_encoder(**tokens).last_hidden_state
        return self.projection(text_hidden_states=hidden).text_hidden_states * tokens.attention_mask[..., None]

    @torch.no_grad()
    def network(self, latents: Tensor, t: Tensor, conditioning: NamedConditioning) -> Tensor:
        """Predict v of noisy latents (rows, latent_channels, frames) at t (rows, frames)."""
        rotary = rotary_table(latents.shape[-1] + 1, self.transformer.config.attention_head_dim // 2, latents)
        given = {name: tensor.to(latents) for name, tensor in conditioning.tensors.items()}
        with autocast_to(self.device, self._precision):
            return self._chunk_times(latents, t, given["text"], given["globals"], rotary).float()

    def prepare(self, precision: Precision = "float32", compile: bool = False) -> None:
        """Choose how `network` computes from now on.

        Raises:
            UserError: it should be compiled, which the hooks that give it a time per chunk do not allow.
        """
        if compile:
            raise UserError("published models cannot be compiled: leave out --compile")
        self._precision = precision

    def fingerprint(self) -> str:
        """Return 16 digits that change with any weight."""
        return weights_fingerprint(self)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole clips to audio (batch, 2, samples)."""
        return self.vae.decode(latents)

    def encode(self, audio: Tensor) -> Tensor:
        """Encode whole stereo clips (batch, 2, samples), the last frame padded with silence."""
        return self.vae.encode(audio.to(self.device))

    def decoder(self) -> StreamingDecoder:
        """Return a new streamed decoding."""
        return StreamingDecoder(self.vae)

    def encoder(self) -> StreamingEncoder:
        """Return a new streamed encoding."""
        return StreamingEncoder(self.vae)


def rotary_table(num_positions: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary positions, each (positions, width); both halves of the width turn alike."""
    frequency = 10_000 ** -(torch.arange(0, width, 2, device=like.device) / width)
    angle = torch.outer(torch.arange(num_positions, device=like.device), frequency).repeat(1, 2)
    return angle.cos().to(like), angle.sin().to(like)
