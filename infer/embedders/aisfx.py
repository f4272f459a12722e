"""aiSFX, a convolutional network for sound effects, trained on the classes of several libraries: 512 values for 2.3 s.

Parameters are named as in the published weights. windows (batch, 1, 102,400) at 44.1 kHz.

Source: Ma & Lerch 2022 (ISMIR), released in the package aisfx 0.1.2 (code MIT, weights CC-BY-4.0: name them in what is
published with them); layers: Kong et al. 2018 (1808.00773), section on the CNN of nine layers.
"""

import io
import pickle

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing
from infer.embedders.wheels import PackagedFiles
from models.errors import UserError

FFT_SIZE, HOP_SIZE, NUM_MELS, NUM_FRAMES = 2048, 1024, 96, 100
LARGEST_LEVEL = 9.457798957824707  # that the training spectrograms were divided by
WINDOW_SECONDS = NUM_FRAMES * HOP_SIZE / 44_100
PREPROCESSING = Preprocessing(
    sample_rate=44_100, window_seconds=WINDOW_SECONDS, hop_seconds=WINDOW_SECONDS / 2, keep_rest=False
)
PREFIX = "embedding_net."
"""Of the layers below; the others are one classifier for each library."""
SAFE_GLOBALS = [
    (np.int64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (np.int64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Int64DType,
]
"""Plain numbers: how many classes each library has."""


class ConvBlock(nn.Module):
    """Two normalised convolutions, then the largest of each patch."""

    def __init__(self, in_channels: int, out_channels: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), self.pool)


class Aisfx(nn.Module):
    """The network.

    Args:
        width: of the first block; each doubles it. The published width is 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [1, *(width * 2**index for index in range(4))]
        for index in range(4):
            block = ConvBlock(widths[index], widths[index + 1], pool=2 if index < 3 else 1)
            self.add_module(f"conv_block{index + 1}", block)
        self.register_buffer("bank", mel_bank(), persistent=False)  # (bins, mels)
        self.register_buffer("window", torch.hann_window(FFT_SIZE, periodic=False), persistent=False)

    def forward(self, windows: Tensor) -> Embedded:
        """Embed windows (batch, 1, samples)."""
        x = self.spectrogram(windows[:, 0])[:, None]
        for index in range(4):
            x = self.get_submodule(f"conv_block{index + 1}")(x)
        return Embedded(x.mean(dim=3).amax(dim=2))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Log of mel power: (batch, 100 frames, mels)."""
        spectrum = torch.stft(
            audio, FFT_SIZE, HOP_SIZE, window=self.get_buffer("window"), pad_mode="constant", return_complex=True
        )
        power = spectrum.abs().square().transpose(1, 2)[:, :NUM_FRAMES] @ self.get_buffer("bank")
        return (1 + 10_000 * power).log10() / LARGEST_LEVEL


def mel_bank() -> Tensor:
    """Triangles that are straight over mel, each with a sum of one: (bins, mels)."""
    hz = torch.linspace(0, 22_050, FFT_SIZE // 2 + 1, dtype=torch.float64)
    mel = 2595 * (1 + hz / 700).log10()
    edges = torch.linspace(0, float(mel[-1]), NUM_MELS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp_min(0)
    return (bank / bank.sum(dim=0).clamp_min(1e-12)).float()


def read_aisfx(files: PackagedFiles) -> dict[str, Tensor]:
    """Read the published weights from the package: a pickled pair (weights, libraries), of which nothing is run.

    Raises:
        UserError: the file is something else.
    """
    checkpoint = files.read("models/checkpoint.pth")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            state, _ = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"the checkpoint of aisfx cannot be read: {str(error).splitlines()[0]}") from error
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
