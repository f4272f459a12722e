"""What betrays that an endless sound was made in chunks: jumps where chunks meet, and a line at the chunk rate.

audio (channels, samples), 44,100 Hz unless told; curves (frames,) on a grid of `CURVE_RATE_HZ`; joins in seconds.

Sources: spectral flux: Bello et al. 2005, section III; effect size: Cohen 1988; permutation p: Phipson & Smyth 2010.
To compare curves at the joins with the same curves elsewhere, and to look for the chunk rate, is this project's way.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infer.metrics.spectra import Audio, frame_spectra, to_channels

CURVE_RATE_HZ = 200
FFT_SIZE = 1024
NUM_PERMUTATIONS = 999
TINY = 1e-12


def spectral_flux(audio: Audio, sample_rate: int = 44_100, lowest_hz: float = 0.0) -> Tensor:
    """Change of the magnitude spectrum (power 0.5) from frame to frame above a frequency: (frames,)."""
    hop = sample_rate // CURVE_RATE_HZ
    magnitude = frame_spectra(audio, FFT_SIZE, hop)[:, math.ceil(lowest_hz * FFT_SIZE / sample_rate) :].sqrt()
    compressed = magnitude.sqrt()
    step = FFT_SIZE // 2 // hop  # frames that hardly overlap
    flux = torch.zeros(len(compressed), dtype=torch.float64)
    flux[step:-step] = (compressed[2 * step :] - compressed[: -2 * step]).abs().mean(dim=1)
    return flux


def level_steps(audio: Audio, sample_rate: int = 44_100) -> Tensor:
    """Difference between the levels of the 20 ms after and before each instant in dB, without sign: (frames,)."""
    hop = sample_rate // CURVE_RATE_HZ
    power = to_channels(audio).square().mean(dim=0)
    num = math.ceil(len(power) / hop)
    power = torch.nn.functional.pad(power, (0, num * hop - len(power))).reshape(num, hop).mean(dim=1)
    sums = torch.nn.functional.pad(power.cumsum(0), (1, 0))
    width = CURVE_RATE_HZ // 50
    at = torch.arange(num)
    after = sums[(at + width).clamp(max=num)] - sums[at]
    before = sums[at] - sums[(at - width).clamp(min=0)]
    steps = (10 * torch.log10((after + TINY) / (before + TINY))).abs()
    steps[:width] = steps[num - width :] = 0
    return steps


def latent_steps(latents: Tensor) -> Tensor:
    """Root mean square difference between neighbouring frames of latents (channels, frames): (frames - 1,)."""
    return latents.double().diff(dim=-1).square().mean(dim=0).sqrt()


@dataclass(frozen=True)
class SeamEffect:
    """How much a curve stands out at the joins."""

    effect: float
    """Mean at the joins less mean elsewhere, in standard deviations of elsewhere."""
    p: float
    """Share of random sets of instants that stand out as much; small: there are seams."""


def seam_effect(curve: Tensor, joins: Tensor, reach: int = 1, seed: int = 0) -> SeamEffect:
    """Compare a curve (num,) at the joins with the same curve at random instants.

    Every instant stands for the highest value within `reach` around it, because a join may lie between two frames.

    Args:
        joins: indices into the curve.

    Raises:
        ValueError: there are no joins inside of the curve, or hardly anything else.
    """
    curve = curve.double()
    joins = joins[(joins >= reach) & (joins < len(curve) - reach)]
    peaks = torch.nn.functional.max_pool1d(curve[None], 2 * reach + 1, stride=1, padding=reach)[0]
    is_free = torch.ones(len(curve), dtype=torch.bool)
    is_free[:reach] = is_free[len(curve) - reach :] = False
    for offset in range(-2 * reach, 2 * reach + 1):
        is_free[(joins + offset).clamp(0, len(curve) - 1)] = False
    free = peaks[is_free]
    if not len(joins) or len(free) < 2 * len(joins):
        raise ValueError(f"{len(joins)} joins in {len(curve)} frames leave nothing to compare with")
    at_joins = peaks[joins]
    deviation = float(free.std()) + TINY
    effect = float(at_joins.mean() - free.mean()) / deviation
    rng = np.random.default_rng(seed)
    pool = torch.cat((at_joins, free)).numpy()
    drawn = np.array([rng.choice(pool, len(joins), replace=False).mean() for _ in range(NUM_PERMUTATIONS)])
    reached = int(np.sum(drawn >= float(at_joins.mean()) - TINY))
    return SeamEffect(effect, (reached + 1) / (NUM_PERMUTATIONS + 1))


def audio_seams(audio: Audio, joins_seconds: Tensor, sample_rate: int = 44_100, seed: int = 0) -> dict[str, SeamEffect]:
    """Seams in the flux of the whole spectrum, in that of 4 to 16 kHz and above, and in the level."""
    joins = (joins_seconds.double() * CURVE_RATE_HZ).round().long()
    curves = {
        "flux": spectral_flux(audio, sample_rate),
        "high flux": spectral_flux(audio, sample_rate, lowest_hz=4000.0),
        "level step": level_steps(audio, sample_rate),
    }
    return {name: seam_effect(curve, joins, seed=seed) for name, curve in curves.items()}


def line_db(curve: Tensor, rate_hz: float, line_hz: float, num_harmonics: int = 3) -> float:
    """How far the lines of a period stand above their surroundings in the spectrum of a curve (frames,), in dB.

    The mean over the first harmonics below half the curve's rate; each line is compared with the median power within
    20 % of it. About 0 where there is no such period. Give the onset envelope and 43.07 Hz / frames of a chunk.

    Raises:
        ValueError: the curve is shorter than eight periods, or too slow for the line.
    """
    seconds = len(curve) / rate_hz
    if seconds * line_hz < 8 or line_hz > rate_hz / 2:
        raise ValueError(f"a line at {line_hz:g} Hz cannot be seen in {seconds:g} s at {rate_hz:g} Hz")
    window = torch.hann_window(len(curve), dtype=torch.float64)
    power = torch.fft.rfft((curve.double() - curve.double().mean()) * window).abs().square()
    hz = torch.arange(len(power)) / seconds
    levels = []
    for harmonic in range(1, num_harmonics + 1):
        centre = line_hz * harmonic
        if centre * 1.2 > rate_hz / 2 and levels:
            break
        width = max(2.0 / seconds, 0.002 * centre)
        near = (hz > 0.8 * centre) & (hz < 1.2 * centre)
        line = near & ((hz - centre).abs() <= width)
        surrounding = power[near & ~line].median() + TINY * power.max() + 1e-30
        # A noise's highest of k bins of chi-square is above its median: take the mean of the line's bins instead.
        levels.append(float(10 * torch.log10(power[line].mean() / (surrounding / math.log(2)) + TINY)))
    return sum(levels) / len(levels)
