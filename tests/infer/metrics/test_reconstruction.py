"""Metrics of a stream against auraloss on the whole clip, and against known answers."""

import auraloss
import pytest
import torch
from torch import Tensor

from infer.metrics.reconstruction import ReconstructionMetrics, ReconstructionReport

RATE = 44_100


def report_of(reconstruction: Tensor, original: Tensor, piece: int = 4_000) -> ReconstructionReport:
    metrics = ReconstructionMetrics(RATE, len(original))
    for x, y in zip(reconstruction.split(piece, dim=-1), original.split(piece, dim=-1), strict=True):
        metrics.push(x, y)
    return metrics.report()


def noise(num_samples: int, seed: int, channels: int = 2) -> Tensor:
    return 0.1 * torch.randn(channels, num_samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_samples", [1_025, 1_500, 20_000, 30_001])
@pytest.mark.parametrize("piece", [100, 1_024, 10**6])
@pytest.mark.parametrize("channels", [1, 2])
def test_stft_distance_and_si_sdr_are_those_of_auraloss(num_samples: int, piece: int, channels: int):
    original = noise(num_samples, 0, channels) + 0.01
    reconstruction = 0.7 * original + 0.3 * noise(num_samples, 1, channels)
    report = report_of(reconstruction, original, piece)
    stft = auraloss.freq.STFTLoss()(reconstruction[None], original[None]).item()
    si_sdr = -auraloss.time.SISDRLoss()(reconstruction[None], original[None]).item()
    assert report.stft_distance == pytest.approx(stft, rel=1e-4)
    assert report.si_sdr_db == pytest.approx(si_sdr, abs=1e-3)


def test_mel_distance_is_the_one_of_mel_bands():
    """auraloss needs librosa for its bands; with ours in their place, its own arithmetic must agree."""
    original, reconstruction = noise(20_000, 0), noise(20_000, 1)
    bands = ReconstructionMetrics(RATE, 2)._spectra._mel_bank
    loss = auraloss.freq.STFTLoss()
    loss.scale, loss.fb = "mel", bands[None]
    report = report_of(reconstruction, original)
    assert report.mel_distance == pytest.approx(loss(reconstruction[None], original[None]).item(), rel=1e-4)
    peaks = bands.argmax(dim=1)
    assert bands.shape == (128, 513)
    assert (peaks.diff() >= 0).all()


def test_a_perfect_reconstruction():
    original = noise(RATE, 0)
    report = report_of(original.clone(), original)
    assert report.stft_distance == report.mel_distance == 0
    assert report.loudness_difference_lu == report.width_difference == 0
    assert report.si_sdr_db is not None
    assert report.si_sdr_db > 80


def test_known_differences():
    original = noise(2 * RATE, 0)
    mono = original.mean(dim=0, keepdim=True).expand(2, -1)
    quieter = report_of(original / 2, original)
    assert quieter.loudness_difference_lu == pytest.approx(-6.02, abs=0.01)
    assert quieter.width_difference == pytest.approx(0, abs=1e-6)
    assert report_of(mono, original).width_difference == pytest.approx(-0.5, abs=0.02)
    noisy = original + 0.1 * noise(2 * RATE, 1)
    assert report_of(noisy, original).si_sdr_db == pytest.approx(20, abs=0.2)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_distances_to_a_silent_or_constant_original_mean_nothing(value: float):
    report = report_of(noise(RATE, 0), torch.full((2, RATE), value))
    assert report.is_silent
    assert report.stft_distance is None
    assert report.mel_distance is None
    assert report.si_sdr_db is None
    assert not report_of(noise(RATE, 0), torch.cat((torch.zeros(1, RATE), noise(RATE, 1, 1)))).is_silent


def test_shorter_than_a_window():
    report = report_of(noise(10, 1), noise(10, 0))
    assert report.stft_distance is not None
    assert report.stft_distance > 0
    assert report.loudness_difference_lu is None


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        ReconstructionMetrics(RATE, 2).push(torch.zeros(2, 10), torch.zeros(2, 11))
