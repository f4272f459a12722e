"""Teaching tones: losses are zero at the goal and have gradients far from it; drawn sets are like measured ones."""

import math

import pytest
import torch

from models.tones import MAX_CENTS, NUM_TONES, split_tones
from train.tones import drawn_tones, strongest_tones, tone_losses


def tones_of(power: float, cents: float, tone: int = 40) -> torch.Tensor:
    tones = torch.zeros(1, 3, NUM_TONES, 2)
    tones[:, :2, tone] = power
    tones[:, 2, tone] = cents
    return tones.flatten(1, 2)


def test_tones_played_as_measured_cost_nothing_and_others_by_the_decibel():
    tones = tones_of(0.01, 20.0)
    amplitudes, cents = torch.zeros(1, 2, NUM_TONES, 2), torch.zeros(1, NUM_TONES, 2)
    amplitudes[:, :, 40], cents[:, 40] = 0.1, 20.0
    exact = tone_losses(amplitudes, cents, tones)
    assert max(value.item() for value in exact.values()) < 1e-9
    off = tone_losses(2 * amplitudes, cents - 30.0, tones)
    assert off["tones/level"].item() == pytest.approx(math.log(2) ** 2 / NUM_TONES, rel=1e-3)
    weight = 2 * math.log(0.01 / 1e-5)
    cents_off = (30 / MAX_CENTS) ** 2
    assert off["tones/pitch"].item() == pytest.approx(cents_off * weight / (weight + 1), rel=1e-3)


def test_a_tone_that_is_not_there_may_be_faint_and_one_that_is_off_has_a_gradient():
    nothing = tones_of(0.0, 0.0)
    amplitudes = torch.full((1, 2, NUM_TONES, 2), 0.9e-3)
    cents = torch.zeros(1, NUM_TONES, 2)
    assert tone_losses(amplitudes, cents, nothing)["tones/level"].item() == 0
    assert tone_losses(10 * amplitudes, cents, nothing)["tones/level"].item() > 1
    off = torch.full((1, 2, NUM_TONES, 2), 1e-5, requires_grad=True)
    tone_losses(off, cents, tones_of(0.01, 0.0))["tones/level"].backward()
    assert off.grad is not None
    assert (off.grad[:, :, 40] < 0).all()
    assert (off.grad[:, :, 39] == 0).all()


def test_of_partials_in_one_semitone_the_strongest_is_kept():
    power = torch.tensor([0.1, 0.2, 0.05])[None, :, None].expand(1, 3, 4)
    midi = torch.tensor([60.1, 59.8, 72.3])[None, :, None].expand(1, 3, 4)
    sides = torch.tensor([[1.0, 1.0, 0.5], [0.25, 0.5, 1.0]])[None]
    measured, cents = split_tones(strongest_tones(power, midi, sides))
    assert (measured > 0).any(dim=1)[0, :, 0].nonzero().flatten().tolist() == [36, 48]
    assert measured[0, :, 36, 0].tolist() == pytest.approx([0.2, 0.1])
    assert measured[0, :, 48, 0].tolist() == pytest.approx([0.025, 0.05])
    assert cents[0, [36, 48], 0].tolist() == pytest.approx([-20, 30], abs=1e-3)


def test_drawn_tones_are_varied_and_repeatable():
    tones = drawn_tones(400, 4, torch.Generator().manual_seed(0))
    assert torch.equal(tones, drawn_tones(400, 4, torch.Generator().manual_seed(0)))
    power, cents = split_tones(tones)
    assert power.shape == (400, 2, NUM_TONES, 4)
    sounding = power.amax(dim=1) > 0
    assert cents.abs().max() <= 50
    assert (cents[~sounding] == 0).all()
    count = sounding.sum(dim=1).float()
    assert 5 < count.mean() < 40
    assert (count[:, -1] == 1).float().mean() > 0.02  # pure sines
    assert sounding.any(dim=2).float().mean(dim=0)[10:70].min() > 0.025  # all over the keyboard
    loudest = 10 * power.amax(dim=(1, 2))[:, -1].clamp_min(1e-9).log10()
    assert loudest.min() < -30
    assert loudest.max() > -8
