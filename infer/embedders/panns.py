"""PANNs' Cnn14, a convolutional network that tags with AudioSet's 527 classes.

Parameters are named as in the published weights. windows (batch, 1, samples) at 16 kHz, a whole clip each.

Source: Kong et al. 2020 (1912.10211); preprocessing of the AudioLDM metrics: Liu et al. 2023 (first channel, mean
removed, one vector of 2,048 values a clip).

Published weights were not run here: shapes, names and the spectrogram are tested, its numbers are not.
"""

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing

PREPROCESSING = Preprocessing(sample_rate=16_000, channels="first", remove_mean=True, least_seconds=2.0)
FFT_SIZE, HOP_SIZE, NUM_MELS = 512, 160, 64


class ConvBlock(nn.Module):
    """Two normalised convolutions, then the mean over patches."""

    def __init__(self, in_channels: int, out_channels: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.avg_pool2d(F.relu(self.bn2(self.conv2(x))), self.pool)


class Cnn14(nn.Module):
    """The tagger for 16 kHz; its vectors are what the classifier sees.

    Args:
        width: of the first block; each doubles it. The published width is 64.
    """

    def __init__(self, width: int = 64, num_classes: int = 527) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(NUM_MELS)
        widths = [1, *(width * 2**index for index in range(6))]
        for index in range(6):
            block = ConvBlock(widths[index], widths[index + 1], pool=2 if index < 5 else 1)
            self.add_module(f"conv_block{index + 1}", block)
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], num_classes)
        bank = torchaudio.functional.melscale_fbanks(
            FFT_SIZE // 2 + 1, 50.0, 8000.0, NUM_MELS, 16_000, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bank", bank, persistent=False)  # (bins, mels)
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)

    def forward(self, windows: Tensor) -> Embedded:
        """Tag clips (batch, 1, samples)."""
        x = self.bn0(self.spectrogram(windows[:, 0])[..., None]).permute(0, 3, 2, 1)  # (batch, 1, frames, mels)
        for index in range(6):
            x = self.get_submodule(f"conv_block{index + 1}")(x)
        x = x.mean(dim=3)  # (batch, channels, frames)
        vectors = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return Embedded(vectors, self.fc_audioset(vectors))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Mel power in dB: (batch, mels, frames)."""
        spectrum = torch.stft(audio, FFT_SIZE, HOP_SIZE, window=self.get_buffer("window"), return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.get_buffer("bank")
        return 10 * power.clamp_min(1e-10).log10().transpose(1, 2)
