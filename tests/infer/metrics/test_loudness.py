"""Loudness of a stream: the compliance values of ITU-R BS.1770 and EBU Tech 3341, and torchaudio's of the whole."""

import numpy as np
import pytest
import torch
import torchaudio

from infer.metrics.loudness import HEAD_FILTER, LOW_CUT, LoudnessMeter, at_rate


def measure(audio: torch.Tensor, rate: int, piece: int) -> float | None:
    meter = LoudnessMeter(rate, len(audio))
    for part in audio.split(piece, dim=-1):
        meter.push(part.numpy())
    return meter.lufs()


def sine(frequency_hz: float, parts: list[tuple[float, float]], rate: int) -> torch.Tensor:
    """(samples,) of a sine whose peak level (dBFS) changes: (level, seconds) each."""
    levels = torch.cat([torch.full((round(seconds * rate),), level) for level, seconds in parts]).double()
    time = torch.arange(len(levels)).double() / rate
    return 10 ** (levels / 20) * torch.sin(2 * torch.pi * frequency_hz * time)


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000, 96_000])
def test_full_scale_sine_on_one_channel_is_minus_3_01_lufs(rate: int):
    """BS.1770-4, annex 1."""
    tone = sine(997, [(0, 5)], rate)
    assert measure(torch.stack((tone, 0 * tone)), rate, 4_800) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(-23, 20)], -23),
        ([(-33, 20)], -33),
        ([(-36, 10), (-23, 60), (-36, 10)], -23),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
    ],
)
def test_signals_of_ebu_tech_3341(rate: int, parts: list[tuple[float, float]], expected: float):
    """Minimum requirements 1 to 5, a stereo sine of 1,000 Hz; the signals themselves are up to 0.02 LU off."""
    audio = sine(1_000, parts, rate).expand(2, -1)
    assert measure(audio, rate, 10**6) == pytest.approx(expected, abs=0.025)


def test_filters_at_48_khz_are_the_recommendations():
    for section in (HEAD_FILTER, LOW_CUT):
        np.testing.assert_allclose(at_rate(section, 48_000), section, atol=1e-12)


@pytest.mark.parametrize(("rate", "piece"), [(44_100, 1), (44_100, 44_100), (48_000, 777), (32_000, 10**6)])
def test_agrees_with_torchaudio_but_for_its_low_cut(rate: int, piece: int):
    """torchaudio normalises the low cut's numerator, which makes it 0.043 dB quieter."""
    generator = torch.Generator().manual_seed(0)
    num_samples = rate if piece == 1 else 3 * rate
    audio = 0.1 * torch.randn(2, num_samples, generator=generator)
    audio *= torch.linspace(0, 1, num_samples).square() * torch.tensor([[1.0], [0.3]])
    expected = torchaudio.functional.loudness(audio.double(), rate).item()
    assert measure(audio, rate, max(piece, 100)) == pytest.approx(expected + 0.043, abs=0.03)


def test_silence_and_snippets_have_no_loudness():
    assert measure(torch.zeros(2, 44_100), 44_100, 1_000) is None
    assert measure(torch.ones(2, 100), 44_100, 1_000) is None
