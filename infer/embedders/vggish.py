"""VGGish, a convolutional network trained on video tags: 128 values for 0.96 s.

Parameters are named as in torchvggish's weights. windows (batch, 1, 15,600) at 16 kHz.

Source: Hershey et al. 2017; preprocessing of the AudioLDM metrics: Liu et al. 2023 (first channel, mean removed;
neither the PCA nor the last ReLU of the release).

Published weights were not run here: shapes, names and the spectrogram are tested, its numbers are not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing

PREPROCESSING = Preprocessing(
    sample_rate=16_000,
    channels="first",
    remove_mean=True,
    least_seconds=2.0,
    window_seconds=0.975,
    hop_seconds=0.96,
    keep_rest=False,
)
WINDOW_SIZE, HOP_SIZE, FFT_SIZE, NUM_MELS = 400, 160, 512, 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LAYERS = (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool")


def mel_bank() -> Tensor:
    """Triangles that are straight over mel, not over Hz, without the lowest bin: (bins, mels)."""

    def mel(hz: Tensor) -> Tensor:
        return 1127 * (1 + hz / 700).log()

    bins = mel(torch.linspace(0, 8000, FFT_SIZE // 2 + 1, dtype=torch.float64))[:, None]
    low, high = (float(mel(torch.tensor(hz, dtype=torch.float64))) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges = torch.linspace(low, high, NUM_MELS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp_min(0)
    bank[0] = 0
    return bank.float()


class Vggish(nn.Module):
    """The network.

    Args:
        width: of the first convolution (published: 64).
        hidden: width of the two hidden layers (published: 4,096).
    """

    def __init__(self, width: int = 64, hidden: int = 4096, out: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for layer in LAYERS:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, layer * width, 3, padding=1), nn.ReLU()]
                channels = layer * width
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(channels * 6 * 4, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )
        self.register_buffer("bank", mel_bank(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_SIZE), persistent=False)

    def forward(self, windows: Tensor) -> Embedded:
        """Embed windows (batch, 1, samples) of 96 frames."""
        x = self.features(self.spectrogram(windows[:, 0])[:, None])  # (batch, channels, 6, 4)
        return Embedded(self.embeddings(x.permute(0, 2, 3, 1).flatten(1)))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Log of mel magnitudes: (batch, 96 frames, mels)."""
        frames = audio.unfold(-1, WINDOW_SIZE, HOP_SIZE) * self.get_buffer("window")
        magnitude = torch.fft.rfft(F.pad(frames, (0, FFT_SIZE - WINDOW_SIZE))).abs()
        return (magnitude @ self.get_buffer("bank") + 0.01).log()
