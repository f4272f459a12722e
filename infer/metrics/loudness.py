"""Integrated loudness of a stream of audio, of which it keeps ten numbers a second.

Source: ITU-R BS.1770-4: K-weighting, mean square over blocks of 400 ms every 100 ms, two gates. The recommendation
states the two filters of K-weighting at 48 kHz; at other sample rates the same analogue filters are used.

Tensors: audio (channels, samples), left and right.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.signal import sosfilt

ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_DB = -0.691
TABLE_RATE = 48_000
HEAD_FILTER = (1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585)
"""b0 b1 b2 a0 a1 a2 at 48 kHz. Source: BS.1770-4, annex 1, table 1."""
LOW_CUT = (1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621)
"""b0 b1 b2 a0 a1 a2 at 48 kHz. Source: BS.1770-4, annex 1, table 2."""


class LoudnessMeter:
    """Takes audio piece by piece; `lufs` is the integrated loudness so far.

    Args:
        sample_rate: Hz.
        num_channels: 1 or 2 (all weigh the same).
    """

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._step = round(0.1 * sample_rate)  # samples between the starts of two blocks
        self._sections = np.stack([at_rate(section, sample_rate) for section in (HEAD_FILTER, LOW_CUT)])  # (2, 6)
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


def at_rate(section: Sequence[float], sample_rate: int) -> np.ndarray:
    """Second-order section (b0 b1 b2 a0 a1 a2) at `sample_rate` of a filter that is given at 48 kHz.

    The bilinear transform p = (z - 1) / (z + 1) leads to the analogue filter and back. A frequency f is at
    p = i tan(pi f / rate): below a few kHz nearly in inverse proportion to the rate.
    """
    scale = (sample_rate / TABLE_RATE) ** np.array((2, 1, 0))
    b, a = (_from_analogue(_to_analogue(part) * scale) for part in (section[:3], section[3:]))
    return np.concatenate((b, a)) / a[0]


def _to_analogue(c: Sequence[float]) -> np.ndarray:
    """Coefficients of p^2, p and 1 from those of z^2, z and 1, up to the factor (1 - p)^2."""
    return np.array((c[0] - c[1] + c[2], 2 * (c[0] - c[2]), c[0] + c[1] + c[2]))


def _from_analogue(c: np.ndarray) -> np.ndarray:
    """Coefficients of z^2, z and 1 from those of p^2, p and 1, up to the factor (z + 1)^2."""
    return np.array((c.sum(), 2 * (c[2] - c[0]), c[0] - c[1] + c[2]))
