"""VoiceLDM as a host: a description of the scene and words to say, guided apart.

    v = v_both + w_d (v_description - v_neither) + w_c (v_content - v_neither)

The description is a CLAP vector; the content is a text that an encoder and a durator stretch to the frames it takes in
speech, which the U-Net attends to. The paper does not say how a text goes on in an endless stream. Here a content
belongs to the frames of its cue: the window that holds them attends to all of it, so that a long text is not read to
its end; give it in parts, by cues. No mask reaches the U-Net, as in training: contents of several lengths that are in
the queue, or in a batch, at once are padded to the longest, which the shorter ones notice a little.

The published file holds U-Net, durator and content encoder; the rest comes from the models it was built on.

Source: Lee et al. 2024 (VoiceLDM, 2309.13664), sections 3.1 to 3.4, eq. 5 (dual guidance).
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infer.hosts.conditioning import NamedConditioning
from infer.hosts.durator import Durator, own_names
from infer.hosts.mel_host import MelHost
from infer.hosts.pipelines import load_part, require_diffusers
from models.checkpoint import load_weights
from models.errors import UserError
from models.queue import QueueConfig
from models.texts import Blend, Spoken, Text, blend_tokens
from models.timing import Position

NO_CONTENT = "_"
MAX_CHARACTERS = 1_000

NEEDED = {
    "voiceldm-m.ckpt or voiceldm-s.ckpt": "glory20h/voiceldm-m or glory20h/voiceldm-s",
    "audioldm-m-full/ (vae, vocoder, scheduler)": "cvssp/audioldm-m-full",
    "clap-htsat-unfused/": "laion/clap-htsat-unfused",
    "speecht5_tts/ (configuration and tokenizer)": "microsoft/speecht5_tts",
}
"""What the folder must hold, and the hub's name of each."""


class VoiceLDM(MelHost):
    """A published VoiceLDM, in a folder with what it was built on."""

    queues = (QueueConfig(context_frames=32, chunk_frames=8, num_chunks=12, steps_per_shift=4),)

    def __init__(
        self,
        clap: Any,
        clap_tokenizer: Any,
        content_encoder: Any,
        content_tokenizer: Any,
        durator: Durator,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.clap, self.clap_tokenizer = clap, clap_tokenizer
        self.content_encoder, self.content_tokenizer = content_encoder, content_tokenizer
        self.durator = durator

    @classmethod
    def load(cls, folder: Path) -> "VoiceLDM":
        """Load the published file and the parts beside it.

        Raises:
            UserError: something is missing, which is listed, or damaged.
        """
        diffusers = require_diffusers()
        from transformers import AutoTokenizer, ClapTextModelWithProjection, SpeechT5HifiGan, SpeechT5Tokenizer

        weights = read_published(folder)
        return cls(
            clap=load_part(folder, "clap-htsat-unfused", ClapTextModelWithProjection),
            clap_tokenizer=load_part(folder, "clap-htsat-unfused", AutoTokenizer),
            content_encoder=_content_encoder(folder, _with_prefix(weights, "text_encoder.encoder.")),
            content_tokenizer=load_part(folder, "speecht5_tts", SpeechT5Tokenizer),
            durator=_durator(_with_prefix(weights, "durator.")),
            unet=_unet(diffusers, _with_prefix(weights, "unet.")),
            vae=load_part(folder / "audioldm-m-full", "vae", diffusers.AutoencoderKL),
            vocoder=load_part(folder / "audioldm-m-full", "vocoder", SpeechT5HifiGan),
            scheduler=load_part(folder / "audioldm-m-full", "scheduler", diffusers.DDIMScheduler),
        )

    def rows(
        self,
        text: Text,
        position: Position,
        guidance_scale: float,
        content_scale: float = 0.0,
    ) -> list[tuple[NamedConditioning, float]]:
        """Return the rows with both, description alone and content alone, whose weights are 1, w_d and w_c."""
        described, undescribed = self.vector(text), self.vector("")
        spoken, silent = self.contents(content_of(text))
        return [
            (self._row(described, spoken), 1.0),
            (self._row(described, silent), guidance_scale),
            (self._row(undescribed, spoken), content_scale),
        ]

    def null_row(self, negative_prompt: str | None, position: Position) -> NamedConditioning:
        """Return the row without description (or with the negative one) and without content.

        It is encoded by itself, where the published code pads it to the content's length: its last character differs
        a little.
        """
        return self._row(self.vector(negative_prompt or ""), self.contents(NO_CONTENT)[1])

    def _row(self, vector: Tensor, content: Tensor) -> NamedConditioning:
        padding = {"encoder_hidden_states": self.durator.output.bias}
        return NamedConditioning({"class_labels": vector, "encoder_hidden_states": content}, padding)

    @torch.no_grad()
    def vector(self, description: Text) -> Tensor:
        """Embed a description, (1, width), not normalised; a blend is interpolated on the sphere."""
        if isinstance(description, Blend):
            start, end = self.vector(description.start), self.vector(description.end)
            return blend_tokens(start[:, None], end[:, None], description.weight)[:, 0]
        if isinstance(description, Spoken):
            return self.vector(description.description)
        tokens = self.clap_tokenizer(
            description, truncation=True, max_length=self.clap_tokenizer.model_max_length, return_tensors="pt"
        ).to(self.device)
        return self.clap(tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds

    @torch.no_grad()
    def contents(self, content: str) -> tuple[Tensor, Tensor]:
        """Encode words to say, and no words, in one batch as in training: each (1, frames, width)."""
        tokens = self.content_tokenizer(
            [content, NO_CONTENT], padding=True, truncation=True, max_length=MAX_CHARACTERS, return_tensors="pt"
        ).to(self.device)
        hidden = self.content_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        spoken, silent = self.durator(hidden, tokens.attention_mask.bool()).split(1)
        return spoken, silent


def content_of(text: Text) -> str:
    """Return the words of a text; of a blend those of its nearer part, since words cannot be mixed."""
    if isinstance(text, Blend):
        return content_of(text.start if text.weight < 0.5 else text.end)
    return text.content if isinstance(text, Spoken) else NO_CONTENT


def read_published(folder: Path) -> dict[str, Tensor]:
    """Read the published file of a folder.

    Raises:
        UserError: the folder lacks a part, or the file is damaged or is none of VoiceLDM's.
    """
    files = sorted(folder.glob("voiceldm*.ckpt"))
    missing = [name for name in NEEDED if "/" in name and not (folder / name.split("/")[0]).is_dir()]
    if len(files) != 1 or missing:
        parts = "; ".join(f"{name} from {source}" for name, source in NEEDED.items())
        raise UserError(f"{folder} is no complete VoiceLDM: it must hold {parts}")
    try:
        weights = torch.load(files[0], map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - what a damaged pickle raises is not documented
        raise UserError(f"cannot read {files[0]}: {type(error).__name__}, download it again") from None
    if not isinstance(weights, dict) or not any(name.startswith("durator.") for name in weights):
        raise UserError(f"{files[0]} holds no VoiceLDM: expected weights named unet.*, durator.*, text_encoder.*")
    return weights


def is_voiceldm(folder: Path) -> bool:
    """Whether a folder holds a published VoiceLDM, complete or not."""
    return any(folder.glob("voiceldm*.ckpt"))


def _with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _unet(diffusers: Any, weights: dict[str, Tensor]) -> Any:
    """Build the U-Net in the sizes of its weights."""
    blocks = sorted({int(found[1]) for name in weights if (found := re.match(r"down_blocks\.(\d+)\.", name))})
    resnets = {found[1] for name in weights if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    network = diffusers.UNet2DConditionModel(
        sample_size=128,
        in_channels=weights["conv_in.weight"].shape[1],
        out_channels=weights["conv_out.weight"].shape[0],
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (len(blocks) - 1),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * (len(blocks) - 1) + ("UpBlock2D",),
        block_out_channels=[weights[f"down_blocks.{block}.resnets.0.conv1.weight"].shape[0] for block in blocks],
        layers_per_block=len(resnets),
        cross_attention_dim=weights["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=weights["class_embedding.weight"].shape[1],
        class_embeddings_concat=True,
    )
    load_weights(network, weights, "the published U-Net")
    return network.eval().requires_grad_(False)


def _durator(weights: dict[str, Tensor]) -> Durator:
    own = own_names(weights)
    durator = Durator(width=own["output.weight"].shape[0])
    load_weights(durator, own, "the published durator")
    return durator.eval().requires_grad_(False)


def _content_encoder(folder: Path, weights: dict[str, Tensor]) -> Any:
    """Build SpeechT5's text encoder, with positions for longer texts, and load the fine-tuned weights."""
    from transformers import SpeechT5Config
    from transformers.models.speecht5.modeling_speecht5 import SpeechT5EncoderWithTextPrenet

    config = load_part(folder, "speecht5_tts", SpeechT5Config)
    config.max_text_positions = MAX_CHARACTERS
    encoder = SpeechT5EncoderWithTextPrenet(config)
    # The table of positions is computed, and not a part of the state of transformers' own class.
    load_weights(encoder, {k: v for k, v in weights.items() if not k.endswith("encode_positions.pe")}, "the encoder")
    return encoder.eval().requires_grad_(False)
