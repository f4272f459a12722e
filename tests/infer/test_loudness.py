"""Loudness of a stream against torchaudio's of the whole."""

import numpy as np
import pytest
import torch
import torchaudio

from infer.loudness import LoudnessMeter


def measure(audio: torch.Tensor, rate: int, piece: int) -> float | None:
    meter = LoudnessMeter(rate, len(audio))
    for part in audio.split(piece, dim=-1):
        meter.push(part.numpy())
    return meter.lufs()


@pytest.mark.parametrize(("rate", "piece"), [(44_100, 1), (44_100, 44_100), (48_000, 777), (32_000, 10**6)])
def test_agrees_with_torchaudio(rate: int, piece: int):
    generator = torch.Generator().manual_seed(0)
    num_samples = rate if piece == 1 else 3 * rate
    audio = 0.1 * torch.randn(2, num_samples, generator=generator)
    audio *= torch.linspace(0, 1, num_samples).square() * torch.tensor([[1.0], [0.3]])
    expected = torchaudio.functional.loudness(audio.double(), rate).item()
    assert measure(audio, rate, max(piece, 100)) == pytest.approx(expected, abs=1e-3)


def test_full_scale_sine_on_one_channel_is_minus_3_01_lufs():
    time = np.arange(5 * 48_000) / 48_000
    sine = torch.from_numpy(np.sin(2 * np.pi * 997 * time))
    assert measure(torch.stack((sine, 0 * sine)), 48_000, 4_800) == pytest.approx(-3.01, abs=0.05)


def test_silence_and_snippets_have_no_loudness():
    assert measure(torch.zeros(2, 44_100), 44_100, 1_000) is None
    assert measure(torch.ones(2, 100), 44_100, 1_000) is None
