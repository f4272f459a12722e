"""The whole model: text encoder, timing, U-Net and VAE in one module and one folder.

    prompts, seconds ──► Conditioning: context (batch, tokens, width), context_mask (batch, tokens), True = keep
    noisy latents, t, conditioning ──► v (batch, latent_channels, frames)

The context is the text's tokens, then one token for seconds_start and one for seconds_total. A dropped conditioning is
a learned null sequence instead of all of them. A folder holds the parts "vae", "text_encoder", "conditioner" and
"unet".

Source: Evans et al. 2024 (2402.04825), section 3.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import Checkpoint, Part, load_weights, part_of, read_checkpoint, save_parts, without_weights
from models.device import Precision, autocast_to, compile_network
from models.errors import UserError, check_bounds
from models.fingerprint import weights_fingerprint
from models.queue import QueueConfig
from models.saved_config import build_config, building
from models.streaming import StreamingDecoder, StreamingEncoder
from models.text_encoder import TextEncoder
from models.texts import NOT_SPEAKING, Blend, Spoken, Text, blend_tokens
from models.timing import NUM_TIMING_TOKENS, Position, TimingConfig, TimingEmbedder
from models.unet import UNet, UNetConfig
from models.vae import VAE

logger = logging.getLogger(__name__)

Seconds = float | Sequence[float | None] | Tensor | None
"""One value for all prompts or one each; None, or NaN, where it is not known."""


@dataclass(frozen=True, kw_only=True)
class ConditionerConfig:
    """What is learned between the text encoder and the U-Net."""

    timing: TimingConfig = field(default_factory=TimingConfig)
    """Timing tables; their width is the text encoder's."""
    num_null_tokens: int = 4
    """Tokens of the learned null sequence."""

    def __post_init__(self) -> None:
        if isinstance(self.timing, dict):
            object.__setattr__(self, "timing", TimingConfig(**self.timing))
        if self.num_null_tokens < 1:
            raise UserError(f"num_null_tokens must be at least 1, got {self.num_null_tokens}")


@dataclass(frozen=True, kw_only=True)
class TextToAudioConfig:
    """The trained half of the model; VAE and text encoder have configurations of their own."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """The denoiser."""
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    """Timing and null sequence."""
    window_frames: int = 4096
    """Frames of a training crop: the longest clip that ordinary sampling makes."""
    known_seconds: float | None = None
    """Length (s) up to which it knows pieces well: one training sample in ten had a longer one; None: not known."""
    queues: tuple[QueueConfig, ...] = (QueueConfig(),)
    """Queues that the network was trained for, at least one; the first is played unless another is asked for."""

    def __post_init__(self) -> None:
        queues = (QueueConfig(**queue) if isinstance(queue, dict) else queue for queue in self.queues)
        object.__setattr__(self, "queues", tuple(queues))
        check_bounds("model.window_frames", self.window_frames, 1, 10_000_000)
        if not self.queues:
            raise UserError("queues must name at least one queue, got none")


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net attends to."""

    context: Tensor
    """(batch, tokens, width)."""
    context_mask: Tensor
    """(batch, tokens) bool, True = keep."""

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: slice | Tensor) -> "Conditioning":
        """Take some of the batch."""
        return Conditioning(self.context[rows], self.context_mask[rows])

    def cat(self, other: "Conditioning") -> "Conditioning":
        """Join two batches; the shorter sequence is padded and masked."""
        tokens = max(self.context.shape[1], other.context.shape[1])
        first, second = self.pad(tokens), other.pad(tokens)
        return Conditioning(
            torch.cat([first.context, second.context]), torch.cat([first.context_mask, second.context_mask])
        )

    def pad(self, tokens: int) -> "Conditioning":
        """Extend to a number of tokens with masked ones."""
        missing = tokens - self.context.shape[1]
        return Conditioning(F.pad(self.context, (0, 0, 0, missing)), F.pad(self.context_mask, (0, missing)))

    def expand(self, batch: int) -> "Conditioning":
        """Repeat a batch of one."""
        if len(self) not in (1, batch):
            raise ValueError(f"can only expand a batch of 1, got {len(self)}")
        return Conditioning(self.context.expand(batch, -1, -1), self.context_mask.expand(batch, -1))


class Conditioner(nn.Module):
    """Joins text and timing to one sequence, and holds the one that stands for no conditioning."""

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.config = config
        self.timing = TimingEmbedder(config.timing)
        self.null_sequence = nn.Parameter(torch.empty(config.num_null_tokens, config.timing.width))
        nn.init.normal_(self.null_sequence)

    def forward(
        self, text_embeddings: Tensor, text_mask: Tensor, seconds_start: Tensor, seconds_total: Tensor
    ) -> Conditioning:
        """Append the timing tokens to text_embeddings (batch, tokens, width); seconds (batch,), NaN = not known."""
        timing = self.timing(seconds_start, seconds_total).to(text_embeddings.dtype)  # (batch, 2, width)
        keep = text_mask.new_ones(len(timing), timing.shape[1])
        return Conditioning(torch.cat([text_embeddings, timing], dim=1), torch.cat([text_mask, keep], dim=1))

    def null(self, batch: int) -> Conditioning:
        """Return the null sequence for a batch."""
        context = self.null_sequence.expand(batch, -1, -1)
        return Conditioning(context, torch.ones(context.shape[:2], dtype=torch.bool, device=context.device))

    def drop(self, conditioning: Conditioning, dropped: Tensor) -> Conditioning:
        """Replace the samples marked in dropped (batch,) bool by the null sequence, text and timing together."""
        null = self.null(len(conditioning))
        tokens = max(conditioning.context.shape[1], null.context.shape[1])
        kept, null = conditioning.pad(tokens), null.pad(tokens)
        return Conditioning(
            torch.where(dropped[:, None, None], null.context.to(kept.context.dtype), kept.context),
            torch.where(dropped[:, None], null.context_mask, kept.context_mask),
        )


class TextToAudio(nn.Module):
    """Text to audio latent diffusion; VAE and text encoder come trained and stay as they are."""

    def __init__(self, config: TextToAudioConfig, vae: VAE, text_encoder: TextEncoder) -> None:
        super().__init__()
        widths = {
            "the text encoder": text_encoder.width,
            "timing": config.conditioner.timing.width,
            "the U-Net's context_width": config.unet.context_width,
        }
        if len(set(widths.values())) > 1:
            raise UserError(f"widths must be equal, got {', '.join(f'{k} {v}' for k, v in widths.items())}")
        if vae.config.latent_channels != config.unet.latent_channels:
            raise UserError(
                f"the VAE has {vae.config.latent_channels} latent channels, the U-Net {config.unet.latent_channels}"
            )
        self.config = config
        self.vae = vae
        self.text_encoder = text_encoder
        self.conditioner = Conditioner(config.conditioner)
        self.unet = UNet(config.unet)
        self._precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.conditioner.null_sequence.device

    @property
    def max_tokens(self) -> int:
        """Most tokens of a conditioning: text and timing, or the null sequence."""
        config = self.conditioner.config
        return max(self.text_encoder.config.max_tokens + NUM_TIMING_TOKENS, config.num_null_tokens)

    def condition(
        self, prompts: Sequence[str], seconds_start: Seconds = None, seconds_total: Seconds = None
    ) -> Conditioning:
        """Encode prompts and timing.

        Raises:
            UserError: there are no prompts, or seconds are outside of the tables or not one for each prompt.
        """
        text_embeddings, text_mask = self.text_encoder.encode(list(prompts))
        start = _seconds_tensor("seconds_start", seconds_start, len(prompts), self.device)
        total = _seconds_tensor("seconds_total", seconds_total, len(prompts), self.device)
        return self.embed(text_embeddings, text_mask, start, total)

    def embed(
        self, text_embeddings: Tensor, text_mask: Tensor, seconds_start: Tensor, seconds_total: Tensor
    ) -> Conditioning:
        """Join encoded text (batch, tokens, width), its mask and seconds (batch,), NaN where not known."""
        return self.conditioner(text_embeddings, text_mask, seconds_start, seconds_total)

    def null_condition(self, batch: int = 1) -> Conditioning:
        """Return the learned sequence that stands for no text and no timing."""
        return self.conditioner.null(batch)

    def forward(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, frame_mask: Tensor | None = None
    ) -> Tensor:
        """Predict v of noisy latents (batch, latent_channels, frames) at t, (batch,) or (batch, frames)."""
        return self.unet(latents, t, conditioning.context, conditioning.context_mask, frame_mask)

    # What follows is what playing needs of any model, the protocol `infer.hosts.host.Host`.

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    @property
    def hop_length(self) -> int:
        """Samples of audio per latent frame."""
        return self.vae.hop_length

    @property
    def sample_rate(self) -> int:
        """Of the audio (Hz)."""
        return self.vae.config.sample_rate

    @property
    def window_frames(self) -> int:
        """Frames of the longest clip that ordinary sampling makes."""
        return self.config.window_frames

    @property
    def queues(self) -> tuple[QueueConfig, ...]:
        """Queues that the network was trained for, the default first."""
        return self.config.queues

    @property
    def max_seconds(self) -> float | None:
        """Largest second that it can be told of."""
        return self.config.conditioner.timing.max_seconds

    @property
    def known_seconds(self) -> float | None:
        """Length (s) up to which it knows pieces well."""
        return self.config.known_seconds

    def noise_time(self, position: Tensor) -> Tensor:
        """Return t at positions 0 (clean) to 1 (noise) of its own noise schedule, which is the same here."""
        return position

    def rows(
        self,
        text: Text,
        position: Position,
        guidance_scale: float,
        content_scale: float = 0.0,  # noqa: ARG002
    ) -> list[tuple[Conditioning, float]]:
        """Return the conditionings, each a batch of one, whose predictions make up a text's, and their weights.

        `null_row` takes the weight that is missing to 1. Here it is one row: classifier-free guidance.
        """
        return [(self._row(text, position), guidance_scale)]

    def null_row(self, negative_prompt: str | None, position: Position) -> Conditioning:
        """Return what guidance moves away from: the null sequence, or a negative prompt."""
        return self._row(negative_prompt, position) if negative_prompt else self.null_condition()

    def _row(self, text: Text, position: Position) -> Conditioning:
        tokens = self._tokens(text)
        start, total = (
            torch.tensor([math.nan if seconds is None else seconds], device=tokens.device) for seconds in position
        )
        return self.embed(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), start, total)

    def _tokens(self, text: Text) -> Tensor:
        """Embed a text without padding: (1, tokens, width)."""
        if isinstance(text, Blend):
            return blend_tokens(self._tokens(text.start), self._tokens(text.end), text.weight)
        if isinstance(text, Spoken):
            raise UserError(NOT_SPEAKING)
        embeddings, mask = self.text_encoder.encode([text])
        return embeddings[:, mask[0]]

    def network(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict v of noisy latents (rows, latent_channels, frames) at t (rows, frames), in float32."""
        with autocast_to(self.device, self._precision):
            return self.unet(latents, t, conditioning.context, conditioning.context_mask).float()

    def prepare(self, precision: Precision = "float32", compile: bool = False) -> None:
        """Choose how `network` computes from now on, and compile it.

        Raises:
            UserError: there is no compiler.
        """
        self._precision = precision
        if compile:
            compile_network(self.unet)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole clips to stereo audio (batch, 2, samples); a mono autoencoder's on both sides."""
        return self.vae.decode(latents).expand(-1, 2, -1)

    def encode(self, audio: Tensor) -> Tensor:
        """Encode whole stereo clips (batch, 2, samples), the last frame padded with silence."""
        return self.vae.encode(self.vae.from_stereo(audio.to(self.device)))

    def decoder(self) -> StreamingDecoder:
        """Return a new streamed decoding."""
        return StreamingDecoder(self.vae)

    def encoder(self) -> StreamingEncoder:
        """Return a new streamed encoding."""
        return StreamingEncoder(self.vae)

    def fingerprint(self) -> str:
        """Return 16 digits that change with any weight."""
        return weights_fingerprint(self)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write all parts into a folder that `load` reads."""
        training = dataclasses.asdict(self.config)
        unet, conditioner = training.pop("unet"), training.pop("conditioner")  # parts of their own
        parts = [
            self.vae.part(dtype),
            self.text_encoder.part(dtype),
            part_of("conditioner", conditioner, self.conditioner, dtype),
            part_of("unet", unet, self.unet, dtype),
            Part("training", training),
        ]
        save_parts(folder, parts)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "TextToAudio":
        """Read a folder, in evaluation mode; VAE and text encoder take no gradients.

        Raises:
            FileNotFoundError: the folder is not a checkpoint.
            UserError: a part is missing, or its weights do not fit its configuration.
        """
        return read_checkpoint(folder, cls._of).to(device).eval()

    @classmethod
    def _of(cls, checkpoint: Checkpoint) -> "TextToAudio":
        saved = {name: checkpoint.config(name) for name in ("unet", "conditioner")} | checkpoint.config("training")
        config = build_config(TextToAudioConfig, saved, str(checkpoint.path))
        vae, text_encoder = VAE.of(checkpoint), TextEncoder.of(checkpoint)
        with building(f"{checkpoint.path}"), without_weights():
            model = cls(config, vae, text_encoder)
        for name in ("unet", "conditioner"):
            load_weights(getattr(model, name), checkpoint.weights(name), f"{checkpoint.folder} ({name})")
        if "queues" not in saved:
            queue = config.queues[0]
            logger.warning("%s does not say which queue it was trained for: %s is taken", checkpoint.folder, queue)
        return model


def _seconds_tensor(name: str, seconds: Seconds, batch: int, device: torch.device) -> Tensor:
    """Bring seconds to (batch,) float32, NaN where not known."""
    if not isinstance(seconds, Tensor):
        values = [seconds] * batch if seconds is None or isinstance(seconds, int | float) else list(seconds)
        seconds = torch.tensor([float("nan") if value is None else float(value) for value in values])
    if seconds.shape != (batch,):
        raise ValueError(f"{name} must be one value or one for each of {batch} prompts, got {tuple(seconds.shape)}")
    return seconds.to(device, torch.float32)
