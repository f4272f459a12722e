"""Prompts to embeddings: a tokenizer and a frozen text tower (CLAP's or T5's).

    prompts          list of `batch` strings
    text_embeddings  (batch, tokens, width) float32, zero where masked
    text_mask        (batch, tokens) bool, True = keep; tokens = the longest prompt's

A folder holds the weights as part "text_encoder" and the tokenizer in `tokenizer/`.
"""

import dataclasses
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.checkpoint import Checkpoint, Part, load_weights, part_of, read_checkpoint, save_parts, without_weights
from models.clap_text import ClapTextConfig, ClapTextTower, text_config_from_huggingface, text_state_from_huggingface
from models.errors import UserError
from models.huggingface import is_pretrained, locate_pretrained, read_pretrained
from models.saved_config import building
from models.t5 import T5Encoder, T5EncoderConfig, t5_config_from_huggingface, t5_state_from_huggingface
from models.tokenizer import load_pretrained_tokenizer, load_tokenizer, parse_tokenizer

logger = logging.getLogger(__name__)

PART = "text_encoder"
TOKENIZER, TOKENIZER_FOLDER = "tokenizer.json", "tokenizer"
ENCODE_BATCH = 64
"""Prompts in one forward pass."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Which text tower, and which of its hidden states is used."""

    kind: str = "clap"
    """"clap" or "t5"."""
    max_tokens: int = 77
    """Longest sequence in tokens, start and end included; longer prompts are cut with a warning."""
    layer: int = -2
    """Index of the hidden state used: -2 the next-to-last layer (Stable Audio's choice for CLAP), -1 the last."""
    cache_size: int = 4096
    """Number of prompts whose embeddings are kept."""
    clap: ClapTextConfig | None = None
    """Shape of CLAP's text tower, for kind "clap"."""
    t5: T5EncoderConfig | None = None
    """Shape of the T5 encoder, for kind "t5"."""

    def __post_init__(self) -> None:
        if isinstance(self.clap, dict):
            object.__setattr__(self, "clap", ClapTextConfig(**self.clap))
        if isinstance(self.t5, dict):
            object.__setattr__(self, "t5", T5EncoderConfig(**self.t5))
        if self.kind not in ("clap", "t5"):
            raise UserError(f'kind of text encoder must be "clap" or "t5", got {self.kind!r}')
        if getattr(self, self.kind) is None:
            raise UserError(f"a text encoder of kind {self.kind!r} needs the configuration {self.kind!r}")
        if self.clap is not None and self.max_tokens > self.clap.max_tokens:
            raise UserError(f"max_tokens must be at most {self.clap.max_tokens} (positions), got {self.max_tokens}")


class TextEncoder(nn.Module):
    """Frozen text encoder with a cache of embeddings; always in evaluation mode, never given gradients."""

    def __init__(self, config: TextEncoderConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(config.max_tokens)
        self.tower: ClapTextTower | T5Encoder
        self.tower = T5Encoder(_given(config.t5)) if config.kind == "t5" else ClapTextTower(_given(config.clap))
        self.requires_grad_(False)
        self.train(False)
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self.register_load_state_dict_post_hook(_forget)

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self.tower.config.width

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Embed prompts on the module's device; returns (text_embeddings, text_mask), padded to the longest prompt.

        Raises:
            UserError: there are no prompts.
        """
        if not prompts:
            raise UserError("got no prompts, expected at least one")
        known = {prompt: self._cache[prompt] for prompt in prompts if prompt in self._cache}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        for start in range(0, len(missing), ENCODE_BATCH):
            batch = missing[start : start + ENCODE_BATCH]
            known |= zip(batch, self._embed(batch), strict=True)
        self._remember(known)
        rows = [known[prompt] for prompt in prompts]  # each (tokens, width)
        embeddings = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
        return embeddings, torch.arange(embeddings.shape[1], device=embeddings.device) < lengths[:, None]

    def _embed(self, prompts: list[str]) -> list[Tensor]:
        """One (tokens, width) float32 tensor for each prompt."""
        device = self.tower.tokens.weight.device
        token_ids, mask = tokenize(self.tokenizer, prompts, self.tower.config.pad_id, device)
        with torch.autocast(device.type, enabled=False):
            hidden_states = self.tower(token_ids, mask)[self.config.layer].float()
        return [row[keep].clone() for row, keep in zip(hidden_states, mask, strict=True)]

    def _remember(self, known: dict[str, Tensor]) -> None:
        for prompt, embedding in known.items():
            self._cache[prompt] = embedding
            self._cache.move_to_end(prompt)
        while len(self._cache) > self.config.cache_size:
            self._cache.popitem(last=False)

    def train(self, mode: bool = True) -> "TextEncoder":  # noqa: ARG002
        """Stay in evaluation mode: the encoder is frozen, dropout must never act."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "TextEncoder":
        self._cache.clear()
        return super()._apply(fn, recurse)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write weights, configuration and tokenizer into a checkpoint folder."""
        save_parts(folder, [self.part(dtype)])

    def part(self, dtype: torch.dtype = torch.float16) -> Part:
        """Part "text_encoder" of a checkpoint, with the tokenizer."""
        tokenizer = {TOKENIZER: self.tokenizer.to_str().encode()}
        return part_of(PART, dataclasses.asdict(self.config), self, dtype, tokenizer)

    @classmethod
    def load(cls, source: str | Path, max_tokens: int = 77) -> "TextEncoder":
        """Read a checkpoint folder, a Hugging Face folder, or a hub name such as "google-t5/t5-base".

        Args:
            source: where the encoder is.
            max_tokens: longest sequence, for Hugging Face models; a checkpoint has its own.

        Raises:
            FileNotFoundError: there is no model in `source`.
            UserError: it is not a CLAP or T5 model, or its weights do not fit.
        """
        if is_pretrained(source):
            return cls._load_pretrained(locate_pretrained(source), max_tokens)
        return read_checkpoint(source, cls.of)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "TextEncoder":
        """Read part "text_encoder" of a checkpoint."""
        part = checkpoint.part(PART)
        if TOKENIZER in part.documents:
            tokenizer = parse_tokenizer(part.documents[TOKENIZER], checkpoint.folder)
        else:  # of a folder without a list of files
            tokenizer = load_tokenizer(checkpoint.folder / TOKENIZER_FOLDER)
        config = checkpoint.build_config(PART, TextEncoderConfig)
        state = {key: value.float() for key, value in part.tensors.items()}
        with building(f"{checkpoint.path}: {PART}"):
            return cls._build(config, tokenizer, state, checkpoint.folder)

    @classmethod
    def _load_pretrained(cls, folder: Path, max_tokens: int) -> "TextEncoder":
        config, state = read_pretrained(folder)
        model_type = config.get("model_type")
        if model_type == "t5":
            t5 = t5_config_from_huggingface(config)
            encoder_config = TextEncoderConfig(kind="t5", max_tokens=max_tokens, layer=-1, t5=t5)
            state = t5_state_from_huggingface(state)
        elif model_type in ("clap", "clap_text_model"):
            is_whole = model_type == "clap"
            clap = text_config_from_huggingface(config["text_config"] if is_whole else config)
            encoder_config = TextEncoderConfig(kind="clap", max_tokens=min(max_tokens, clap.max_tokens), clap=clap)
            state = text_state_from_huggingface(state, prefix="text_model." if is_whole else "")
        else:
            raise UserError(f"{folder} holds a model of type {model_type!r}, expected t5, clap or clap_text_model")
        weights = {f"tower.{key}": value.float() for key, value in state.items()}
        return cls._build(encoder_config, load_pretrained_tokenizer(folder), weights, folder)

    @classmethod
    def _build(
        cls, config: TextEncoderConfig, tokenizer: Tokenizer, state: dict[str, Tensor], where: str | Path
    ) -> "TextEncoder":
        with without_weights():
            encoder = cls(config, tokenizer)
        load_weights(encoder, state, where)
        return encoder.requires_grad_(False)


def tokenize(tokenizer: Tokenizer, prompts: list[str], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (batch, tokens) int64 and mask (batch, tokens) bool, padded on the right to the longest prompt.

    Prompts longer than the tokenizer's truncation are cut; the first such prompt is named in a warning.
    """
    encodings = tokenizer.encode_batch(prompts)
    cut = [prompt for prompt, encoding in zip(prompts, encodings, strict=True) if encoding.overflowing]
    if cut:
        limit = tokenizer.truncation["max_length"] if tokenizer.truncation else 0
        logger.warning("%d prompts are longer than %d tokens and were cut, e.g. %r", len(cut), limit, cut[0])
    rows = [torch.tensor(encoding.ids, dtype=torch.long) for encoding in encodings]
    token_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(token_ids.shape[1]) < lengths[:, None]
    return token_ids.to(device), mask.to(device)


def _given(config: Any) -> Any:
    assert config is not None
    return config


def _forget(module: nn.Module, _incompatible: Any) -> None:
    assert isinstance(module, TextEncoder)
    module._cache.clear()
