"""Facts measured from a waveform alone: tempo, pitch, side, width, brightness, length, levels.

Every function takes audio (channels, samples) or (samples,), 44,100 Hz unless told, a tensor or an array, and knows
nothing of how the sound was made. What cannot be found (the tempo of a steady noise) is NaN.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.metrics.spectra import Audio, frame_spectra, to_channels

ONSET_RATE_HZ = 100
TINY = 1e-12
PITCH_WINDOW_SAMPLES = 8192
PITCH_FFT_SAMPLES = 32_768
CENTS_STEP = 5


def onset_envelope(audio: Audio, sample_rate: int = 44_100) -> Tensor:
    """Strength of onsets at 100 Hz: growth of the amplitude in 24 bands, less its local mean: (frames,).

    Band amplitudes are compressed to the power 0.6, so that a soft high click still counts beside a loud low one.
    """
    hop, window = sample_rate // ONSET_RATE_HZ, 1024
    spectra = frame_spectra(audio, window, hop)
    edges = torch.logspace(math.log10(40), math.log10(16_000), 25, dtype=torch.float64)
    hz = torch.arange(spectra.shape[-1], dtype=torch.float64) * sample_rate / window
    band = torch.bucketize(hz, edges)
    bands = torch.zeros(spectra.shape[0], 26, dtype=torch.float64).index_add_(1, band, spectra)[:, 1:25]
    amplitude = (bands / (bands.max() + TINY)).clamp_min(1e-7) ** 0.3
    growth = (amplitude[2:] - amplitude[:-2]).clamp_min(0).sum(dim=1)  # over 20 ms
    local_mean = F.avg_pool1d(growth[None], 41, stride=1, padding=20, count_include_pad=False)[0]
    return (growth - local_mean).clamp_min(0)


def autocorrelation(signal: Tensor) -> Tensor:
    """Autocorrelation of (samples,) for all lags, each divided by its overlap and by that at lag 0."""
    size = 2 * len(signal)
    power = torch.fft.rfft(signal - signal.mean(), n=size).abs().square()
    correlation = torch.fft.irfft(power, n=size)[: len(signal)] / torch.arange(len(signal), 0, -1)
    return correlation / (correlation[0] + TINY)


def parabolic_peak(values: Tensor, index: int) -> float:
    """Position of a local maximum between samples, from the parabola through it and its neighbours."""
    if not 0 < index < len(values) - 1:
        return float(index)
    left, middle, right = (float(value) for value in values[index - 1 : index + 2])
    curvature = left - 2 * middle + right
    return index + (0.5 * (left - right) / curvature if curvature < 0 else 0.0)


def tempo_bpm(
    audio: Audio, sample_rate: int = 44_100, lowest_bpm: float = 50.0, highest_bpm: float = 200.0, minimum: float = 0.15
) -> float:
    """Beats per minute; NaN where nothing repeats.

    The shortest lag at which the autocorrelation of the onset envelope has a peak of at least 0.75 of its highest;
    then made exact at the farthest multiple that still repeats.

    Args:
        minimum: autocorrelation below which nothing is said to repeat; in short clips, where chance alone reaches it,
            three standard deviations of chance instead.
    """
    envelope = onset_envelope(audio, sample_rate)
    smooth = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=torch.float64) / 2.0) ** 2)
    envelope = F.conv1d(envelope[None, None], (smooth / smooth.sum())[None, None], padding=6)[0, 0]
    correlation = autocorrelation(envelope)[: int(len(envelope) * 0.75)]
    first, last = int(60 / highest_bpm * ONSET_RATE_HZ), math.ceil(60 / lowest_bpm * ONSET_RATE_HZ)
    last = min(last, len(correlation) - 2)
    if last <= first:
        return math.nan
    middle = correlation[first : last + 1]
    is_peak = (middle >= correlation[first - 1 : last]) & (middle > correlation[first + 1 : last + 2])
    peaks = torch.nonzero(is_peak)[:, 0] + first
    chance = math.sqrt(7 / len(envelope))  # of an envelope smoothed over about 7 frames
    if len(peaks) == 0 or float(correlation[peaks].max()) < max(minimum, 3 * chance):
        return math.nan
    lag = int(peaks[correlation[peaks] >= 0.75 * correlation[peaks].max()][0])
    return 60.0 * ONSET_RATE_HZ / refine_lag(correlation, lag)


def refine_lag(correlation: Tensor, lag: int) -> float:
    """Make the lag of a repetition exact: follow its multiples while they repeat at least half as strongly."""
    period = parabolic_peak(correlation, lag)
    for multiple in range(2, 9):
        reach = max(1, round(0.06 * lag))
        centre = round(period * multiple)
        if centre + reach + 1 >= len(correlation):
            break
        near = correlation[centre - reach : centre + reach + 1]
        index = int(near.argmax()) + centre - reach
        if float(correlation[index]) < 0.5 * float(correlation[lag]):
            break
        period = parabolic_peak(correlation, index) / multiple
    return period


def pitch_hz(audio: Audio, sample_rate: int = 44_100, lowest_hz: float = 60.0, highest_hz: float = 1100.0) -> float:
    """Fundamental frequency of the strongest sustained tone in Hz; NaN where no tone stands out.

    A harmonic sum over the mean amplitude spectrum (186 ms windows): for each candidate, on a grid of 5 cents, the
    amplitudes at eight harmonics with falling weights, less those halfway between them, which a tone an octave lower
    would fill. NaN when the sum is not well above the spectrum's median.
    """
    if to_channels(audio).shape[-1] < PITCH_WINDOW_SAMPLES:
        return math.nan
    power = frame_spectra(audio, PITCH_WINDOW_SAMPLES, PITCH_WINDOW_SAMPLES // 2, PITCH_FFT_SAMPLES)
    amplitude = power.sqrt().mean(dim=0).sqrt()  # compressed, so that no single partial decides
    num_steps = int(1200 * math.log2(highest_hz / lowest_hz) / CENTS_STEP) + 1
    candidates = lowest_hz * 2 ** (torch.arange(num_steps, dtype=torch.float64) * CENTS_STEP / 1200)
    score = torch.zeros_like(candidates)
    for harmonic in range(1, 9):
        weight = 0.8 ** (harmonic - 1)
        at = spectrum_at(amplitude, candidates * harmonic, sample_rate)
        between = spectrum_at(amplitude, candidates * (harmonic - 0.5), sample_rate)
        score += weight * (at - 0.7 * between)
    best = int(score.argmax())
    if best in (0, num_steps - 1) or float(score[best]) < 5.0 * float(amplitude.median() + TINY):
        return math.nan
    return lowest_hz * 2 ** (parabolic_peak(score, best) * CENTS_STEP / 1200)


def spectrum_at(amplitude: Tensor, hz: Tensor, sample_rate: int) -> Tensor:
    """Linear interpolation of a spectrum (bins,) at frequencies; zero beyond half the sample rate."""
    position = hz * (2 * (len(amplitude) - 1) / sample_rate)
    index = position.long().clamp(max=len(amplitude) - 2)
    weight = (position - index).clamp(0, 1)
    value = amplitude[index] * (1 - weight) + amplitude[index + 1] * weight
    return value * (position < len(amplitude) - 1)


def side_db(audio: Audio) -> float:
    """Level of the left channel over the right in dB: positive is left; 0 for mono."""
    channels = to_channels(audio)
    if len(channels) == 1:
        return 0.0
    power = channels.square().mean(dim=-1) + TINY
    return float(10 * torch.log10(power[0] / power[1]))


def stereo_correlation(audio: Audio) -> float:
    """Correlation of the two channels: 1 for mono, 0 for independent ones."""
    channels = to_channels(audio)
    if len(channels) == 1:
        return 1.0
    centred = channels - channels.mean(dim=-1, keepdim=True)
    norm = centred.square().sum(dim=-1).prod().sqrt()
    return float((centred[0] * centred[1]).sum() / (norm + TINY))


def side(audio: Audio, threshold_db: float = 6.0, wide_correlation: float = 0.8) -> str:
    """Position in words: `left`, `right`, `wide` (equal, decorrelated) or `center`."""
    difference = side_db(audio)
    if abs(difference) > threshold_db:
        return "left" if difference > 0 else "right"
    return "wide" if stereo_correlation(audio) < wide_correlation else "center"


def spectral_centroid_hz(audio: Audio, sample_rate: int = 44_100) -> float:
    """Power-weighted mean frequency of the whole sound in Hz."""
    power = frame_spectra(audio, 2048, 1024).sum(dim=0)
    hz = torch.arange(len(power), dtype=torch.float64) * sample_rate / 2048
    return float((hz * power).sum() / (power.sum() + TINY))


def active_seconds(audio: Audio, sample_rate: int = 44_100, threshold_db: float = -60.0) -> float:
    """Seconds from the first to the last 20 ms frame above the threshold (dBFS rms of the louder channel)."""
    channels = to_channels(audio)
    frame = sample_rate // 50
    padded = F.pad(channels, (0, -channels.shape[-1] % frame))
    power = padded.reshape(len(channels), -1, frame).square().mean(dim=-1).amax(dim=0)
    active = torch.nonzero(power > 10 ** (threshold_db / 10))[:, 0]
    if len(active) == 0:
        return 0.0
    return min(float(active[-1] - active[0] + 1) * frame, channels.shape[-1]) / sample_rate


@dataclass(frozen=True, kw_only=True)
class Level:
    """Levels of a sound."""

    peak: float
    """Largest absolute sample; 1 is full scale."""
    clipped_share: float
    """Share of the samples at or beyond 0.999 of full scale."""
    silence_share: float
    """Share of the 20 ms frames below -70 dBFS."""


def level(audio: Audio, sample_rate: int = 44_100) -> Level:
    """Measure the levels of a sound."""
    channels = to_channels(audio)
    frame = min(sample_rate // 50, channels.shape[-1])
    whole = channels[:, : channels.shape[-1] // frame * frame].reshape(len(channels), -1, frame)
    silent = whole.square().mean(dim=(0, 2)) < 10 ** (-70 / 10)
    return Level(
        peak=float(channels.abs().max()),
        clipped_share=float((channels.abs() >= 0.999).double().mean()),
        silence_share=float(silent.double().mean()),
    )


def tempo_matches(measured_bpm: float, stated_bpm: float, tolerance: float = 0.04) -> bool:
    """Whether a measured tempo is the stated one within a share."""
    return abs(measured_bpm / stated_bpm - 1) <= tolerance


def pitch_matches(measured_hz: float, stated_hz: float, tolerance_cents: float = 50.0) -> bool:
    """Whether a measured pitch is the stated one within a tolerance."""
    return measured_hz > 0 and abs(1200 * math.log2(measured_hz / stated_hz)) <= tolerance_cents
