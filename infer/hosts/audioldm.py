"""AudioLDM as a host: a CLAP vector of the text conditions the U-Net beside the time embedding.

Source: Liu et al. 2023 (AudioLDM, 2301.12503).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from infer.hosts.conditioning import NamedConditioning
from infer.hosts.mel_host import MelHost
from infer.hosts.pipelines import load_part, require_diffusers
from models.errors import UserError
from models.queue import QueueConfig
from models.texts import NOT_SPEAKING, Blend, Spoken, Text, blend_tokens


class AudioLDM(MelHost):
    """A published AudioLDM: cvssp/audioldm, audioldm-s-full, audioldm-m-full, audioldm-l-full and their like."""

    queues = (QueueConfig(context_frames=32, chunk_frames=8, num_chunks=12, steps_per_shift=4),)

    def __init__(self, text_encoder: Any, tokenizer: Any, **parts: Any):
        super().__init__(**parts)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer

    @classmethod
    def load(cls, folder: Path) -> "AudioLDM":
        """Load the parts of a pipeline's folder."""
        diffusers = require_diffusers()
        from transformers import AutoTokenizer, ClapTextModelWithProjection, SpeechT5HifiGan

        return cls(
            text_encoder=load_part(folder, "text_encoder", ClapTextModelWithProjection),
            tokenizer=load_part(folder, "tokenizer", AutoTokenizer),
            unet=load_part(folder, "unet", diffusers.UNet2DConditionModel),
            vae=load_part(folder, "vae", diffusers.AutoencoderKL),
            vocoder=load_part(folder, "vocoder", SpeechT5HifiGan),
            scheduler=load_part(folder, "scheduler", diffusers.DDIMScheduler),
        )

    def condition(self, text: Text) -> NamedConditioning:
        """Return a text's vector as a row; training dropped prompts to the empty text."""
        return NamedConditioning({"class_labels": self.vector(text)})

    @torch.no_grad()
    def vector(self, text: Text) -> Tensor:
        """Embed a text, (1, width) of norm 1; a blend is interpolated on the sphere."""
        if isinstance(text, Spoken):
            raise UserError(NOT_SPEAKING)
        if isinstance(text, Blend):
            start, end = self.vector(text.start), self.vector(text.end)
            return blend_tokens(start[:, None], end[:, None], text.weight)[:, 0]
        tokens = self.tokenizer(
            text, truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt"
        ).to(self.device)
        embedded = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        return F.normalize(embedded, dim=-1)
