"""PaSST, a vision transformer over mel spectrograms that tags with AudioSet's 527 classes.

Parameters are named as in the published weights. windows (batch, 1, 320,000) at 32 kHz.

Source: Koutini et al. 2022 (2110.05069); preprocessing of KLpasst: Evans et al. 2024 (10 s windows every 5 s).

Published weights were not run here: shapes, names and the spectrogram are tested, its numbers are not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing

PREPROCESSING = Preprocessing(sample_rate=32_000, peak_db=-1.0, window_seconds=10.0, hop_seconds=5.0)


@dataclass(frozen=True, kw_only=True)
class PasstConfig:
    """Shape of the network; the defaults are passt-s-swa-p16-s10."""

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 16
    stride: int = 10
    num_mels: int = 128
    num_frames: int = 998
    num_classes: int = 527


class MelSpectrogram(nn.Module):
    """Log-mel spectrogram of pre-emphasised sound: (batch, samples) -> (batch, 1, mels, frames)."""

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        bank, _ = torchaudio.compliance.kaldi.get_mel_banks(num_mels, 1024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
        self.register_buffer("bank", F.pad(bank, (0, 1)), persistent=False)  # (mels, bins)
        self.register_buffer("window", torch.hann_window(800, periodic=False), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        emphasised = audio[:, 1:] - 0.97 * audio[:, :-1]
        spectrum = torch.stft(emphasised, 1024, 320, 800, self.get_buffer("window"), return_complex=True)
        mel = self.get_buffer("bank") @ spectrum.abs().square()
        return (((mel + 1e-5).log() + 4.5) / 5)[:, None]


class Attention(nn.Module):
    """Self-attention with all projections in one."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (batch, heads, tokens, width / heads)
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention and feed-forward, normalised before."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Passt(nn.Module):
    """The tagger; its vectors are the mean of the two class tokens."""

    def __init__(self, config: PasstConfig) -> None:
        super().__init__()
        width, patch, stride = config.width, config.patch_size, config.stride
        rows = (config.num_mels - patch) // stride + 1
        columns = (config.num_frames - patch) // stride + 1
        self.mel = MelSpectrogram(config.num_mels)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, patch, stride)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, columns))
        self.blocks = nn.Sequential(*(Block(width, config.num_heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.num_classes))
        self.head_dist = nn.Linear(width, config.num_classes)  # used in its training alone

    def forward(self, windows: Tensor) -> Embedded:
        """Tag windows (batch, 1, samples) of at most 10 s."""
        patches = self.patch_embed["proj"](self.mel(windows[:, 0]))  # (batch, width, rows, columns)
        columns = self.time_new_pos_embed.shape[-1]
        patches = patches[..., :columns] + self.time_new_pos_embed[..., : patches.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat((self.cls_token, self.dist_token), dim=1) + self.new_pos_embed
        x = torch.cat((tokens.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        x = self.norm(self.blocks(x))
        vectors = x[:, :2].mean(dim=1)
        return Embedded(vectors, self.head(vectors))
