"""AudioLDM2 as a host: a language model continues the text's embeddings, and the U-Net attends to both.

    CLAP vector, T5 states --projection--> one sequence --GPT-2--> its next 8 hidden states: attended to, like the T5's

Source: Liu et al. 2024 (AudioLDM2, 2308.05734), sections III-B and III-C.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infer.hosts.conditioning import NamedConditioning
from infer.hosts.mel_host import MelHost
from infer.hosts.pipelines import load_part, part_type, require_diffusers
from models.errors import UserError
from models.queue import QueueConfig
from models.texts import NOT_SPEAKING, Blend, Spoken, Text, blend_tokens

NUM_GENERATED = 8
"""Hidden states that the language model adds, unless its configuration says otherwise."""


class AudioLDM2(MelHost):
    """A published AudioLDM2: cvssp/audioldm2, audioldm2-large, audioldm2-music (those with a T5)."""

    queues = (QueueConfig(context_frames=32, chunk_frames=8, num_chunks=12, steps_per_shift=4),)

    def __init__(
        self,
        clap: Any,
        clap_tokenizer: Any,
        t5: Any,
        t5_tokenizer: Any,
        projection: Any,
        language_model: Any,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.clap, self.clap_tokenizer = clap, clap_tokenizer
        self.t5, self.t5_tokenizer = t5, t5_tokenizer
        self.projection, self.language_model = projection, language_model

    @classmethod
    def load(cls, folder: Path) -> "AudioLDM2":
        """Load the parts of a pipeline's folder."""
        diffusers = require_diffusers()
        from transformers import AutoTokenizer, ClapModel, GPT2Model, SpeechT5HifiGan, T5EncoderModel

        kind = part_type(folder, "text_encoder_2")
        if kind != "t5":
            raise UserError(f"{folder} cannot be played: its text_encoder_2 is {kind}, expected t5 (other than speech)")
        return cls(
            clap=load_part(folder, "text_encoder", ClapModel),
            clap_tokenizer=load_part(folder, "tokenizer", AutoTokenizer),
            t5=load_part(folder, "text_encoder_2", T5EncoderModel),
            t5_tokenizer=load_part(folder, "tokenizer_2", AutoTokenizer),
            projection=load_part(folder, "projection_model", diffusers.AudioLDM2ProjectionModel),
            language_model=load_part(folder, "language_model", GPT2Model),
            unet=load_part(folder, "unet", diffusers.AudioLDM2UNet2DConditionModel),
            vae=load_part(folder, "vae", diffusers.AutoencoderKL),
            vocoder=load_part(folder, "vocoder", SpeechT5HifiGan),
            scheduler=load_part(folder, "scheduler", diffusers.DDIMScheduler),
        )

    @torch.no_grad()
    def condition(self, text: Text, num_tokens: int | None = None) -> NamedConditioning:
        """Embed a text; a blend is interpolated on the sphere, token by token.

        Args:
            num_tokens: length that the T5's tokens are padded to. The published pipeline pads the empty text to the
                prompt's length, which moves the positions of the generated states; here nothing is padded.
        """
        if isinstance(text, Spoken):
            raise UserError(NOT_SPEAKING)
        if isinstance(text, Blend):
            start, end = (self.condition(part).tensors for part in (text.start, text.end))
            names = ("encoder_hidden_states", "encoder_hidden_states_1")
            sequences = {name: blend_tokens(start[name], end[name], text.weight) for name in names}
            mask = torch.ones_like(sequences[names[1]][..., 0], dtype=torch.bool)
            return NamedConditioning(sequences | {"encoder_attention_mask_1": mask})
        clap_tokens = self.clap_tokenizer(
            text, truncation=True, max_length=self.clap_tokenizer.model_max_length, return_tensors="pt"
        ).to(self.device)
        clap = self.clap.get_text_features(**clap_tokens).pooler_output[:, None]  # (1, 1, width)
        padding = {"padding": "max_length"} if num_tokens else {}
        t5_tokens = self.t5_tokenizer(
            text, truncation=True, max_length=num_tokens or self._max_t5_tokens(), return_tensors="pt", **padding
        ).to(self.device)
        t5 = self.t5(**t5_tokens).last_hidden_state  # (1, tokens, width)
        projected = self.projection(
            hidden_states=clap,
            hidden_states_1=t5,
            attention_mask=torch.ones_like(clap[..., 0], dtype=torch.long),
            attention_mask_1=t5_tokens.attention_mask,
        )
        return NamedConditioning(
            {
                "encoder_hidden_states": self._generate(projected.hidden_states, projected.attention_mask),
                "encoder_hidden_states_1": t5,
                "encoder_attention_mask_1": t5_tokens.attention_mask.bool(),
            }
        )

    def _max_t5_tokens(self) -> int:
        return min(self.t5_tokenizer.model_max_length, 512)  # a tokenizer without a limit gives 10^30

    def _generate(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """Continue a sequence (1, tokens, width) of hidden states; returns those that were added."""
        num_generated = getattr(self.language_model.config, "max_new_tokens", None) or NUM_GENERATED
        for _ in range(num_generated):
            hidden = self.language_model(inputs_embeds=sequence, attention_mask=mask, use_cache=False).last_hidden_state
            sequence = torch.cat((sequence, hidden[:, -1:]), dim=1)
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
        return sequence[:, -num_generated:]
