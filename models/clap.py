"""CLAP: one space for sound and text, trained by contrast.

Paper: Wu et al. 2022 (2211.06687); its use in Stable Audio: Evans et al. 2024 (2402.04825), section 3.2. The diffusion
model reads the text tower's next-to-last layer, evaluation compares the two projected embeddings.

audio (batch, channels, samples) at the configuration's sample rate; token_ids and mask (batch, tokens);
embeddings (batch, embedding_width) of length 1.
"""

import dataclasses
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.checkpoint import Checkpoint, load_weights, part_of, read_checkpoint, save_parts, without_weights
from models.clap_audio import ClapAudioConfig, ClapAudioTower, audio_config_from_huggingface, split_into_clips
from models.clap_text import (
    ACTIVATIONS,
    ClapTextConfig,
    ClapTextTower,
    text_config_from_huggingface,
    text_state_from_huggingface,
)
from models.errors import UserError
from models.huggingface import is_pretrained, locate_pretrained, read_pretrained
from models.saved_config import building, read_json
from models.text_encoder import TextEncoder, TextEncoderConfig, tokenize
from models.tokenizer import load_pretrained_tokenizer

PART = "clap"
INITIAL_TEMPERATURE = 0.07
MAX_LOGIT_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClapConfig:
    """Both towers and the space they share."""

    text: ClapTextConfig = dataclasses.field(default_factory=ClapTextConfig)
    """The text tower."""
    audio: ClapAudioConfig = dataclasses.field(default_factory=ClapAudioConfig)
    """The audio tower."""
    max_tokens: int = 77
    """Longest sequence in tokens, start and end included."""
    text_layer: int = -2
    """Hidden state of the text tower that a diffusion model is given: -2 the next-to-last layer, as in Stable Audio;
    0 the token embeddings."""
    embedding_width: int = 512
    """Width of the shared space."""
    projection_activation: str = "relu"
    """Activation inside the two projections."""

    def __post_init__(self) -> None:
        if isinstance(self.text, dict):
            object.__setattr__(self, "text", ClapTextConfig(**self.text))
        if isinstance(self.audio, dict):
            object.__setattr__(self, "audio", ClapAudioConfig(**self.audio))
        if self.max_tokens > self.text.max_tokens:
            raise UserError(f"max_tokens must be at most {self.text.max_tokens} (positions), got {self.max_tokens}")
        if not -self.text.num_layers - 1 <= self.text_layer <= self.text.num_layers:
            raise UserError(f"text_layer must be within {self.text.num_layers} layers, got {self.text_layer}")


class ClapHead(nn.Module):
    """Everything but the text tower: audio tower, the two projections and the temperature."""

    def __init__(self, config: ClapConfig) -> None:
        super().__init__()
        self.audio = ClapAudioTower(config.audio)
        self.text_projection = _projection(config, config.text.width)
        self.audio_projection = _projection(config, config.audio.width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))


class Clap(nn.Module):
    """Two towers that put a sound and its caption close to each other."""

    def __init__(self, config: ClapConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(config.max_tokens)
        self.text = ClapTextTower(config.text)
        self.head = ClapHead(config)

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.head.log_scale.exp().clamp_max(MAX_LOGIT_SCALE)

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Embed prompts: (batch, embedding_width), length 1."""
        token_ids, mask = tokenize(self.tokenizer, prompts, self.config.text.pad_id, self.head.log_scale.device)
        pooled = self.text.pool(self.text(token_ids, mask)[-1])
        return F.normalize(self.head.text_projection(pooled).float(), dim=-1)

    def embed_audio(self, audio: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Embed audio: (batch, embedding_width), length 1.

        Audio longer than the tower's clip is cut into clips, whose embeddings are averaged by their lengths.
        """
        if num_samples is None:
            num_samples = torch.full((len(audio),), audio.shape[-1], device=audio.device)
        length = self.config.audio.clip_samples
        total = torch.zeros(len(audio), self.config.embedding_width, device=audio.device)
        for index in range(split_into_clips(audio.shape[-1], length)):
            remaining = num_samples - index * length
            rows = (remaining > 0).nonzero().squeeze(-1) if index else torch.arange(len(audio), device=audio.device)
            if len(rows) == 0:
                break
            part = audio[rows, :, index * length : (index + 1) * length]
            embedding = self._embed_clip(part, remaining[rows])
            weight = remaining[rows].clamp(1, length)[:, None] / length
            total = total.index_add(0, rows, embedding * weight)
        return F.normalize(total, dim=-1)

    def _embed_clip(self, audio: Tensor, num_samples: Tensor) -> Tensor:
        pooled = self.head.audio(audio, num_samples)
        return F.normalize(self.head.audio_projection(pooled).float(), dim=-1)

    def text_encoder(self) -> TextEncoder:
        """A frozen copy of the text tower, as the diffusion model uses it."""
        config = TextEncoderConfig(
            kind="clap", max_tokens=self.config.max_tokens, layer=self.config.text_layer, clap=self.config.text
        )
        with without_weights():
            encoder = TextEncoder(config, self.tokenizer)
        state = {f"tower.{key}": value.detach().clone() for key, value in self.text.state_dict().items()}
        load_weights(encoder, state, "the text tower")
        return encoder.requires_grad_(False)

    def save(self, folder: str | Path) -> None:
        """Write parts "text_encoder" (with tokenizer) and "clap" (all but the text tower) into a folder."""
        save_parts(folder, [self.text_encoder().part(), part_of(PART, dataclasses.asdict(self.config), self.head)])

    @classmethod
    def load(cls, source: str | Path) -> "Clap":
        """Read a folder written by `save`, a Hugging Face folder, or a hub name such as "laion/clap-htsat-unfused".

        Raises:
            FileNotFoundError: there is no such model in `source`.
            UserError: it is not a CLAP without fusion, or its weights do not fit the configuration.
        """
        if is_pretrained(source):
            return cls._load_pretrained(locate_pretrained(source))
        return read_checkpoint(source, cls._of)

    @classmethod
    def _of(cls, checkpoint: Checkpoint) -> "Clap":
        encoder = TextEncoder.of(checkpoint)
        config, head = checkpoint.build_config(PART, ClapConfig), checkpoint.weights(PART)
        with building(f"{checkpoint.path}: {PART}"):
            return cls._build(config, encoder.tokenizer, encoder.tower.state_dict(), head, checkpoint.folder)

    @classmethod
    def _load_pretrained(cls, folder: Path) -> "Clap":
        config, state = read_pretrained(folder)
        if config.get("model_type") != "clap" or config["audio_config"].get("enable_fusion", False):
            raise UserError(f"{folder} holds a {config.get('model_type')!r}, expected a clap model without fusion")
        text = text_config_from_huggingface(config["text_config"])
        frontend_path = folder / "preprocessor_config.json"
        frontend = read_json(frontend_path) if frontend_path.exists() else {}
        clap_config = ClapConfig(
            text=text,
            audio=audio_config_from_huggingface(config["audio_config"], frontend),
            max_tokens=min(77, text.max_tokens),
            embedding_width=config["projection_dim"],
            projection_activation=config["projection_hidden_act"],
        )
        head = {"log_scale": state["logit_scale_a"]}
        for key, value in state.items():
            if key.startswith("audio_model."):
                head[key.replace("audio_model.", "audio.htsat.", 1)] = value
            elif "_projection.linear" in key:
                head[key.replace("linear1", "0").replace("linear2", "2")] = value
        text_state = text_state_from_huggingface(state, prefix="text_model.")
        return cls._build(clap_config, load_pretrained_tokenizer(folder), text_state, head, folder)

    @classmethod
    def _build(
        cls,
        config: ClapConfig,
        tokenizer: Tokenizer,
        text: dict[str, Tensor],
        head: dict[str, Tensor],
        where: Path | str,
    ) -> "Clap":
        with without_weights():
            clap = cls(config, tokenizer)
        load_weights(clap.text, text, f"{where} (text tower)")
        load_weights(clap.head, head, f"{where} (audio tower)")
        return clap.eval().requires_grad_(False)


def _projection(config: ClapConfig, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, config.embedding_width),
        ACTIVATIONS[config.projection_activation](),
        nn.Linear(config.embedding_width, config.embedding_width),
    )
