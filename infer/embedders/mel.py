"""Statistics of a mel spectrogram as an embedding that needs no training: a yardstick on any machine.

Levels of 40 bands, their quantiles, their change, and the spectrum of their modulation; whatever the level and the
side. It hears timbre and rhythm coarsely, and says nothing of pitch or meaning.

audio (channels, samples), 44,100 Hz; features (208,) float64; windows (1, 2, samples), a whole clip.
"""

import itertools

import torch
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing
from infer.metrics.spectra import frame_spectra, mel_bank

PREPROCESSING = Preprocessing(sample_rate=44_100, channels="stereo")
FFT_SIZE, HOP_SIZE, NUM_BANDS = 2048, 512, 40
LEVEL_FLOOR = 1e-2  # of the mean power: faint parts of a sound, which an autoencoder changes first, say nothing
MODULATION_EDGES_HZ = (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 43.0)


def sound_features(audio: Tensor) -> Tensor:
    """Describe a sound of a few seconds, whatever its level and side: (208,)."""
    power = frame_spectra(audio, FFT_SIZE, HOP_SIZE) @ mel_bank(FFT_SIZE, NUM_BANDS, 30.0, 16_000.0)  # (frames, bands)
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


class MelStatistics(nn.Module):
    """The features as a network without parameters."""

    def forward(self, windows: Tensor) -> Embedded:
        """Describe clips (batch, channels, samples)."""
        return Embedded(torch.stack([sound_features(clip) for clip in windows]))
