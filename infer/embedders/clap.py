"""CLAP, one space for sound and text: this project's own, and LAION's through `transformers`.

windows (1, channels, samples), a whole clip each.

Sources: Wu et al. 2022 (2211.06687). The published CLAP score is that of LAION's 630k-audioset-fusion (hub name
`laion/clap-htsat-fused`): 48 kHz mono, peak -1 dB, rounded to 16 bits; what exceeds 10 s is fused from three excerpts
drawn at random, here always the same ones.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing
from models.clap import Clap

LAION_PREPROCESSING = Preprocessing(sample_rate=48_000, peak_db=-1.0, quantise=True)


class OwnClap(nn.Module):
    """The audio side of `models.clap.Clap`."""

    def __init__(self, clap: Clap) -> None:
        super().__init__()
        self.clap = clap

    def forward(self, windows: Tensor) -> Embedded:
        """Embed clips (batch, channels, samples)."""
        return Embedded(self.clap.embed_audio(windows))

    @property
    def preprocessing(self) -> Preprocessing:
        """The rate it was trained at; it folds channels itself."""
        return Preprocessing(sample_rate=self.clap.config.audio.sample_rate, channels="stereo")


class LaionClap(nn.Module):
    """LAION's CLAP; the spectrogram is that of `transformers`' feature extractor.

    Args:
        folder: as `transformers` saves it, with processor and tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel  # seconds, wanted here alone

        self.model: Any = ClapModel.from_pretrained(folder)
        self._extract: Any = ClapFeatureExtractor.from_pretrained(folder)
        self._tokenize: Any = AutoTokenizer.from_pretrained(folder)

    def forward(self, windows: Tensor) -> Embedded:
        """Embed clips (batch, 1, samples)."""
        state = np.random.get_state()
        np.random.seed(0)
        features = self._extract(
            [clip.cpu().numpy() for clip in windows[:, 0]], sampling_rate=48_000, return_tensors="pt"
        )
        np.random.set_state(state)
        device = next(self.model.parameters()).device
        output = self.model.get_audio_features(**{name: value.to(device) for name, value in features.items()})
        return Embedded(F.normalize(output.pooler_output, dim=-1))

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Embed prompts: (batch, width)."""
        tokens = self._tokenize(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        device = next(self.model.parameters()).device
        inputs = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
        return F.normalize(self.model.get_text_features(**inputs).pooler_output, dim=-1)


def load_own(source: str) -> OwnClap:
    """Read this project's CLAP from the export of `train.clap`.

    Raises:
        FileNotFoundError: the folder is no CLAP, or holds its text tower alone, as a model for sound does.
    """
    try:
        return OwnClap(Clap.load(source))
    except ValueError as error:
        if "no part 'clap'" not in str(error):
            raise
        raise FileNotFoundError(
            f"{source} holds CLAP's text tower but not its audio tower: give the folder that train.clap exported, "
            "such as runs/clap/export"
        ) from None
