"""Integrated loudness of a stream of audio, of which it keeps ten numbers a second.

Source: ITU-R BS.1770-4: K-weighting, mean square over blocks of 400 ms every 100 ms, two gates. The two filters are
the recommendation's, given by frequency, gain and quality, so that they can be had at any sample rate.

Tensors: audio (channels, samples), left and right.
"""

import math

import numpy as np
from scipy.signal import sosfilt

ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_DB = -0.691


class LoudnessMeter:
    """Takes audio piece by piece; `lufs` is the integrated loudness so far.

    Args:
        sample_rate: Hz.
        num_channels: 1 or 2 (all weigh the same).
    """

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._step = round(0.1 * sample_rate)  # samples between the starts of two blocks
        self._sections = np.stack((high_shelf(sample_rate), high_pass(sample_rate)))  # (2, 6)
        self._filter_state = np.zeros((2, num_channels, 2))
        self._pending = np.zeros((num_channels, 0))  # filtered, less than a step
        self._energies: list[float] = []  # one every 100 ms: mean square, summed over channels

    def push(self, audio: np.ndarray) -> None:
        """Take the next samples, (channels, samples)."""
        filtered, self._filter_state = sosfilt(self._sections, audio.astype(np.float64), zi=self._filter_state)
        pending = np.concatenate((self._pending, filtered), axis=1)
        num_steps = pending.shape[1] // self._step
        whole, self._pending = np.split(pending, [num_steps * self._step], axis=1)
        steps = whole.reshape(len(audio), num_steps, self._step)
        self._energies += np.square(steps).mean(axis=2).sum(axis=0).tolist()

    def lufs(self) -> float | None:
        """Integrated loudness (LUFS); None for less than 400 ms, or nothing above the gate of -70 LUFS."""
        energies = np.asarray(self._energies)
        if len(energies) < 4:
            return None
        blocks = np.convolve(energies, np.full(4, 0.25), mode="valid")
        blocks = blocks[blocks > 10 ** ((ABSOLUTE_GATE_LUFS - OFFSET_DB) / 10)]
        if not len(blocks):
            return None
        blocks = blocks[blocks > blocks.mean() * 10 ** (RELATIVE_GATE_LU / 10)]
        return OFFSET_DB + 10 * math.log10(blocks.mean())


def high_shelf(sample_rate: int, frequency_hz: float = 1500.0, gain_db: float = 4.0) -> np.ndarray:
    """Second-order section (b0 b1 b2 a0 a1 a2) of K-weighting's head filter. Source: Bristow-Johnson, cookbook."""
    angle = 2 * math.pi * frequency_hz / sample_rate
    amplitude = 10 ** (gain_db / 40)
    cosine, slope = math.cos(angle), math.sin(angle) * math.sqrt(2 * amplitude)  # quality 1 / sqrt(2)
    up, down = amplitude + 1, amplitude - 1
    b = (up + down * cosine + slope, -2 * (down + up * cosine), up + down * cosine - slope)
    a = (up - down * cosine + slope, 2 * (down - up * cosine), up - down * cosine - slope)
    return np.array((*(amplitude * value for value in b), *a)) / a[0]


def high_pass(sample_rate: int, frequency_hz: float = 38.0, quality: float = 0.5) -> np.ndarray:
    """Second-order section (b0 b1 b2 a0 a1 a2) of K-weighting's low cut. Source: Bristow-Johnson, cookbook."""
    angle = 2 * math.pi * frequency_hz / sample_rate
    cosine, width = math.cos(angle), math.sin(angle) / (2 * quality)
    b = ((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2)
    a = (1 + width, -2 * cosine, 1 - width)
    return np.array((*b, *a)) / a[0]
