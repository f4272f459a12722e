"""Tones measured as they are, played as they were measured, and streamed with their phases."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from models.tones import (
    MAX_CENTS,
    NUM_TONES,
    ToneBank,
    ToneFeatures,
    TonePeaks,
    split_tones,
    tone_hz,
)
from tests.models.test_spectral_transform import stream

RATE, HOP = 44_100, 1024


def sine(hz: float, amplitude: float = 0.3, frames: int = 40) -> Tensor:
    """Stereo, on the left only."""
    audio = torch.zeros(1, 2, frames * HOP)
    audio[:, 0] = amplitude * torch.sin(2 * math.pi * hz / RATE * torch.arange(frames * HOP, dtype=torch.float64))
    return audio


def played(amplitudes: Tensor, cents: Tensor) -> Tensor:
    return ToneBank(4, HOP, RATE).eval().play(amplitudes, cents)


@pytest.mark.parametrize("midi", [24.3, 31.0, 45.4, 59.6, 60.45, 69.0, 88.55, 107.7])
def test_a_sine_is_measured_within_a_cent_and_a_tenth_of_a_decibel(midi: float):
    torch.manual_seed(0)
    audio = sine(440 * 2 ** ((midi - 69) / 12), 0.1) + 1e-5 * torch.randn(1, 2, 40 * HOP)
    power, cents = split_tones(TonePeaks(HOP, RATE)(audio)[..., 6:-6])
    tone = round(midi) - 24
    assert (cents[0, tone] - 100 * (midi - round(midi))).abs().max() < 1
    assert (10 * (power[0, 0, tone] / 0.1**2).log10()).abs().max() < 0.1
    assert power[0, 1, tone].max() < 1e-7
    others = torch.arange(NUM_TONES) != tone
    assert power[0, 0, others].max() < 1e-3 * 0.1**2


def test_noise_has_hardly_a_tone_and_silence_none():
    torch.manual_seed(0)
    peaks = TonePeaks(HOP, RATE)
    power, _ = split_tones(peaks(0.1 * torch.randn(1, 2, 200 * HOP)))
    assert (power > 0).float().mean() < 0.01
    assert peaks(torch.zeros(1, 2, 20 * HOP)).abs().max() == 0


def test_features_tell_level_and_pitch_of_tones_that_can_be_heard():
    tones = torch.zeros(1, 3, NUM_TONES, 1)
    tones[0, :, 5, 0] = torch.tensor([1.0, 1e-9, -30.0])
    tones[0, :, 6, 0] = torch.tensor([1e-8, 0.0, 40.0])
    left, right, cents = ToneFeatures()(tones.flatten(1, 2)).unflatten(1, (3, -1))[0, :, :, 0]
    silent = math.log(1e-6) / 7 + 2
    assert left[5:7].tolist() == pytest.approx([2, silent], abs=1e-5)
    assert right[5:7].tolist() == pytest.approx([silent, silent], abs=1e-5)
    assert cents[5:7].tolist() == pytest.approx([2 * -30 / MAX_CENTS, 0], abs=1e-6)


def test_what_was_measured_plays_as_it_was():
    """Two notes between the semitones, one on each side: played from their measurement, they are measured the same."""
    audio = sine(233.0, 0.2, 60) + sine(1280.0, 0.05, 60).flip(1)
    peaks = TonePeaks(HOP, RATE)
    power, cents = split_tones(peaks(audio))
    again, again_cents = split_tones(peaks(played(power.sqrt(), cents)))
    for side, hz in ((0, 233.0), (1, 1280.0)):
        tone = round(12 * math.log2(hz / 440) + 69) - 24
        inner = slice(15, -15)
        assert (10 * (again / power)[0, side, tone, inner].log10()).abs().max() < 0.1
        assert (again_cents - cents)[0, tone, inner].abs().max() < 1


def test_a_glide_has_no_jumps():
    amplitudes = torch.zeros(1, 2, NUM_TONES, 20)
    amplitudes[:, :, 45] = torch.linspace(0, 0.5, 20)
    cents = torch.zeros(1, NUM_TONES, 20)
    cents[:, 45] = torch.linspace(-60, 60, 20)
    audio = played(amplitudes, cents)
    highest = tone_hz(torch.tensor([45])).item() * 2 ** (60 / 1200)
    steepest = 0.5 * 2 * math.pi * highest / RATE + 0.5 / 19 / HOP
    assert audio.diff(dim=-1).abs().max() < 1.01 * steepest
    assert audio[..., -HOP:].abs().max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sizes", [[1], [40], [0, 1, 2, 50]], ids=str)
@pytest.mark.parametrize("frames", [1, 2, 75])
def test_chunks_with_carried_phases_equal_the_whole(frames: int, sizes: list[int]):
    torch.manual_seed(0)
    bank = ToneBank(4, HOP, RATE).eval()
    bank.initialise()
    with torch.no_grad():
        bank.settings.weight.mul_(20)
        x = torch.randn(2, 4, frames)
        whole = bank(x)
        assert whole.shape == (2, 2, frames * HOP)
        assert whole.std() > 0.01
        loudest = whole.abs().max().item()
        torch.testing.assert_close(stream(bank, x, sizes), whole, rtol=0, atol=1e-5 * loudest)


def test_tones_that_are_off_are_exactly_silent_and_learn():
    bank = ToneBank(4, HOP, RATE)
    bank.initialise()
    bias = cast(nn.Parameter, bank.settings.bias)
    with torch.no_grad():
        bank.settings.weight.zero_()
        bias[: 2 * NUM_TONES] = -12
        assert bank.eval()(torch.zeros(1, 4, 3)).abs().max() == 0
    bank.train().tones(torch.zeros(1, 4, 3))[0].log().sum().backward()
    assert bias.grad is not None
    assert (bias.grad[: 2 * NUM_TONES] > 1).all()


def test_phases_are_new_in_training_only():
    bank = ToneBank(4, HOP, RATE)
    assert not torch.equal(bank.train().first_phases(1), bank.first_phases(1))
    assert torch.equal(bank.eval().first_phases(2)[0], bank.first_phases(1)[0])
