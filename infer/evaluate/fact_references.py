"""Which of several words fits a sound: a linear classifier in closed form, from real clips of each word.

The features are statistics of a mel spectrogram and say nothing of how a clip was made, so any sound can be judged:
levels of 40 bands, their quantiles, their change, and the spectrum of their modulation.

audio (channels, samples), 44,100 Hz; features (num_features,) float64.

Source: linear discriminant analysis with a shrunken covariance (Friedman 1989).
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from infer.metrics import frame_spectra, spectral_centroid_hz

FFT_SIZE, HOP_SIZE, NUM_BANDS = 2048, 512, 40
LEVEL_FLOOR = 1e-2  # of the mean power: faint parts of a sound, which an autoencoder changes first, say nothing
MODULATION_EDGES_HZ = (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 43.0)


@lru_cache(maxsize=1)
def _bands() -> Tensor:
    return torchaudio.functional.melscale_fbanks(
        FFT_SIZE // 2 + 1, 30.0, 16_000.0, NUM_BANDS, 44_100, norm="slaney", mel_scale="slaney"
    ).double()


def sound_features(audio: Tensor) -> Tensor:
    """Describe a sound of a few seconds, whatever its level and side: (208,)."""
    power = frame_spectra(audio, FFT_SIZE, HOP_SIZE) @ _bands()  # (frames, bands)
    power = power / (power.sum(dim=1).mean() + 1e-12)
    levels = (power + LEVEL_FLOOR).log()
    quantiles = torch.quantile(levels, torch.tensor([0.1, 0.9], dtype=levels.dtype), dim=0)
    change = levels.diff(dim=0).abs().mean(dim=0)
    return torch.cat(
        ((power.mean(dim=0) + LEVEL_FLOOR).log(), quantiles.flatten(), change, _modulation(levels).flatten())
    )


def _modulation(levels: Tensor) -> Tensor:
    """Log energy of six ranges of modulation frequency in eight wide bands: (6, 8)."""
    wide = levels.reshape(len(levels), 8, -1).mean(dim=-1)
    window = torch.hann_window(len(wide), dtype=wide.dtype)[:, None]
    size = max(512, len(wide))
    energy = torch.fft.rfft((wide - wide.mean(dim=0)) * window, n=size, dim=0).abs().square()
    hz = torch.arange(len(energy)) * (44_100 / HOP_SIZE / size)
    edges = itertools.pairwise(MODULATION_EDGES_HZ)
    return torch.stack([energy[(hz >= low) & (hz < high)].sum(dim=0) + 1e-3 for low, high in edges]).log()


def centroid_feature(audio: Tensor) -> Tensor:
    """Log of the spectral centroid in Hz: (1,)."""
    return torch.tensor([max(spectral_centroid_hz(audio), 1.0)], dtype=torch.float64).log()


class WordClassifier:
    """Linear discriminant analysis between words.

    Args:
        examples: of each word, the features of some sounds.
        shrinkage: share, 0 to 1, of the covariance's off-diagonal that is dropped; much where clips are few.
    """

    def __init__(self, examples: Mapping[str, Sequence[Tensor]], shrinkage: float) -> None:
        self.words = list(examples)
        described = [torch.stack(list(rows)) for rows in examples.values()]  # (examples, features) each
        means = torch.stack([rows.mean(dim=0) for rows in described])  # (words, features)
        residual = torch.cat([rows - mean for rows, mean in zip(described, means, strict=True)])
        covariance = residual.T @ residual / len(residual)
        diagonal = torch.diag(covariance.diagonal())
        covariance = (1 - shrinkage) * covariance + shrinkage * diagonal + 1e-4 * torch.eye(len(covariance))
        self._weights = torch.linalg.solve(covariance, means.T)  # (features, words)
        self._offsets = -0.5 * (means.T * self._weights).sum(dim=0)

    def __call__(self, features: Tensor) -> str:
        """Return the word that fits a sound's features best."""
        return self.words[int((features @ self._weights + self._offsets).argmax())]
