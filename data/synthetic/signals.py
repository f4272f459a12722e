"""Signal processing of the corpus: shaped noise, envelopes, event scattering, oscillators, struck resonances.

Everything is vectorised over samples and float32. Arrays are (samples,) or (channels, samples) at 44,100 Hz.
Spectral shapes are given as breakpoints ((hz, db), ...), linear in dB over log frequency.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import fft

from data.synthetic.layers import SAMPLE_RATE, samples

Shape = Sequence[tuple[float, float]]


def db_to_gain(db: float) -> float:
    """Amplitude factor of a level in dB."""
    return 10.0 ** (db / 20.0)


def spectral_gain(size: int, shape: Shape) -> np.ndarray:
    """Amplitude gain at the bins of an rfft of `size` samples; zero at 0 Hz."""
    grid = np.geomspace(10.0, SAMPLE_RATE / 2, 512)
    hz, db = zip(*shape, strict=True)
    gain = 10.0 ** (np.interp(np.log(grid), np.log(hz), db) / 20.0)
    bins = np.arange(size // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / size)
    gain = np.interp(bins, grid, gain).astype(np.float32)
    gain[0] = 0.0
    return gain


def fft_size(num_samples: int) -> int:
    """A length of at least `num_samples` whose real FFT is fast."""
    return int(fft.next_fast_len(num_samples, True) or num_samples)


def rfft(audio: np.ndarray, size: int) -> np.ndarray:
    """Spectrum of the last axis in single precision, zero-padded to `size`."""
    return np.asarray(fft.rfft(audio, size, axis=-1))


def irfft(bins: np.ndarray, size: int) -> np.ndarray:
    """The inverse of `rfft`."""
    return np.asarray(fft.irfft(bins, size, axis=-1))


def noise(rng: np.random.Generator, num_channels: int, num_samples: int, shape: Shape) -> np.ndarray:
    """Gaussian noise with the given spectrum and rms 1, channels independent: (channels, samples)."""
    size = fft_size(max(num_samples, 64))
    bins = rng.standard_normal((num_channels, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    bins *= spectral_gain(size, shape)
    audio = irfft(bins, size)[:, :num_samples]
    return audio / np.sqrt(np.mean(audio**2) + 1e-12)


def stretch(points: np.ndarray, num_samples: int) -> np.ndarray:
    """Straight lines through equally spaced control points, (points,) -> (samples,)."""
    position = np.linspace(0.0, len(points) - 1.0, num_samples, dtype=np.float32)
    return np.interp(position, np.arange(len(points)), points).astype(np.float32)


def wander(
    rng: np.random.Generator, num_samples: int, rate_hz: float, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """A smooth random curve between low and high that takes a new direction about `rate_hz` times a second."""
    num_points = max(2, round(num_samples / SAMPLE_RATE * rate_hz)) + 1
    position = np.linspace(0.0, num_points - 1.0, num_points * 16)
    points = rng.random(num_points)
    left = np.minimum(position.astype(int), num_points - 2)
    weight = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    return stretch(low + (high - low) * (points[left] * (1 - weight) + points[left + 1] * weight), num_samples)


def ramp(num_samples: int, attack_seconds: float, release_seconds: float) -> np.ndarray:
    """An envelope of ones with a raised-cosine attack and release."""
    envelope = np.ones(num_samples, dtype=np.float32)
    for seconds, ending in ((attack_seconds, False), (release_seconds, True)):
        length = min(samples(seconds), num_samples)
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length, dtype=np.float32) + 0.5) / max(length, 1))
        if ending:
            envelope[num_samples - length :] *= rise[::-1]
        else:
            envelope[:length] *= rise
    return envelope


def decay(seconds: float, half_life: float, attack_seconds: float = 0.001) -> np.ndarray:
    """An envelope that rises at once and halves every `half_life` seconds, ending at zero."""
    time = np.arange(samples(seconds), dtype=np.float32) / SAMPLE_RATE
    return np.exp2(-time / half_life) * ramp(len(time), attack_seconds, seconds * 0.2)


def scatter(
    num_samples: int, seconds: np.ndarray, kernels: Sequence[np.ndarray], choice: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """Add kernel `choice[i]` at `seconds[i]` with gain(s) `gains[..., i]`.

    Args:
        gains: (events,) for one channel, (2, events) for two.
    """
    gains = np.atleast_2d(gains).astype(np.float32)
    audio = np.zeros((len(gains), num_samples), dtype=np.float32)
    starts = np.round(np.asarray(seconds) * SAMPLE_RATE).astype(int)
    for start, which, gain in zip(starts.tolist(), np.asarray(choice).tolist(), gains.T[:, :, None], strict=True):
        kernel = kernels[which][: max(0, num_samples - start)]
        audio[:, start : start + len(kernel)] += gain * kernel
    return audio


def hits(num_samples: int, seconds: np.ndarray, kernels: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One channel of `scatter` with the kernels taken in random order and nearly equal gains."""
    choice = rng.integers(len(kernels), size=len(seconds))
    return scatter(num_samples, seconds, kernels, choice, rng.uniform(0.9, 1.0, len(seconds)))


def beats(total_seconds: float, period_seconds: float, tail_seconds: float = 0.25) -> np.ndarray:
    """Regular onset times in seconds from 0.05 on, none in the last `tail_seconds`."""
    return np.arange(0.05, max(0.06, total_seconds - tail_seconds), period_seconds)


def poisson(rng: np.random.Generator, total_seconds: float, rate_hz: float, tail_seconds: float = 0.05) -> np.ndarray:
    """Irregular onset times, `rate_hz` a second on average, at least one."""
    length = max(0.05, total_seconds - tail_seconds)
    return np.sort(rng.uniform(0.0, length, max(1, rng.poisson(length * rate_hz))))


@lru_cache(maxsize=64)
def wavetable(harmonics: tuple[float, ...]) -> np.ndarray:
    """One period of a sum of sines with these amplitudes, rms 1, 8192 points."""
    phase = 2 * np.pi * np.arange(8192) / 8192
    table = sum(a * np.sin((k + 1) * phase + k * k) for k, a in enumerate(harmonics))
    return (table / np.sqrt(np.mean(np.square(table)))).astype(np.float32)


def oscillator(hz: float | np.ndarray, num_samples: int, harmonics: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """A periodic wave of constant or varying (samples,) frequency, rms 1; harmonics above 15 kHz are left out."""
    highest = float(np.max(hz))
    kept = harmonics[: max(1, int(15_000 / highest))]
    if np.ndim(hz) == 0:
        phase = np.arange(num_samples, dtype=np.float64) * (float(hz) / SAMPLE_RATE)
    else:
        phase = np.cumsum(hz, dtype=np.float64) / SAMPLE_RATE
    return wavetable(tuple(float(a) for a in kept))[(phase * 8192).astype(np.int64) & 8191]


def rolloff(num_harmonics: int, power: float, odd_only: bool = False) -> tuple[float, ...]:
    """Harmonic amplitudes falling as 1 / k^power."""
    return tuple(0.0 if odd_only and k % 2 == 0 else k**-power for k in range(1, num_harmonics + 1))


@lru_cache(maxsize=192)
def struck(hz: float, partials: tuple[tuple[float, float, float], ...], seconds: float) -> np.ndarray:
    """A struck or plucked resonance: decaying sines (ratio to hz, amplitude, half-life in seconds); peak 1."""
    time = np.arange(samples(seconds), dtype=np.float32) / SAMPLE_RATE
    audio = np.zeros_like(time)
    for ratio, amplitude, half_life in partials:
        if hz * ratio < 16_000:
            audio += amplitude * np.exp2(-time / half_life) * oscillator(hz * ratio, len(time))
    audio *= ramp(len(time), 0.001, 0.2 * seconds)
    audio /= np.max(np.abs(audio))
    audio.flags.writeable = False
    return audio


def sweep(start_hz: float, end_hz: float, seconds: float) -> np.ndarray:
    """A sine gliding from one frequency to another with a rounded envelope, peak about 1."""
    length = samples(seconds)
    hz = np.geomspace(start_hz, end_hz, length)
    return (oscillator(hz, length) * 0.7 * ramp(length, seconds * 0.3, seconds * 0.4)).astype(np.float32)


@lru_cache(maxsize=64)
def burst_bank(
    name: str, shape: tuple[tuple[float, float], ...], seconds: float, half_life: float, num: int = 8
) -> tuple:
    """`num` different decaying noise bursts of peak 1, the same on every call (`name` seeds them)."""
    rng = np.random.default_rng(np.frombuffer(name.encode(), dtype=np.uint8))
    bank = noise(rng, num, samples(seconds), shape) * decay(seconds, half_life, 0.0005)
    return tuple(bank / np.max(np.abs(bank), axis=-1, keepdims=True))
