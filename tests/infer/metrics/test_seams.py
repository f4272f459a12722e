"""Seams that are there are found, and those that are not are not."""

import math

import numpy as np
import pytest
import torch

from infer.metrics.facts import ONSET_RATE_HZ, onset_envelope
from infer.metrics.seams import audio_seams, latent_steps, level_steps, line_db, seam_effect, spectral_flux

RATE = 44_100
CHUNK_SECONDS = 0.4
JOINS = torch.arange(1, 25) * CHUNK_SECONDS


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((2, round(seconds * RATE)))


def concatenated() -> np.ndarray:
    """Steady tones, cut and joined with another phase and pitch every chunk: the positive control."""
    rng = np.random.default_rng(0)
    time = np.arange(round(CHUNK_SECONDS * RATE)) / RATE
    chunks = [np.sin(2 * np.pi * rng.uniform(200, 900) * time + rng.uniform(0, 6)) for _ in range(25)]
    audio = 0.1 * np.concatenate(chunks)
    return np.stack((audio, audio)) + 0.001 * noise(10.0)[:, : len(audio)]


def test_concatenation_has_seams():
    seams = audio_seams(concatenated(), JOINS)
    assert seams["flux"].effect > 2
    assert seams["flux"].p < 0.01
    assert seams["high flux"].p < 0.01  # clicks


def test_steady_noise_has_none():
    values = [audio_seams(noise(10.0, seed), JOINS, seed=seed) for seed in range(3)]
    for name in ("flux", "high flux", "level step"):
        assert max(abs(value[name].effect) for value in values) < 1
        assert np.mean([value[name].p for value in values]) > 0.05


def test_level_jumps_are_seams_of_level():
    audio = noise(10.0)
    gain = np.repeat(np.tile([1.0, 0.5], 13)[:25], round(CHUNK_SECONDS * RATE))
    assert audio_seams(audio * gain, JOINS)["level step"].p < 0.01
    steps = level_steps(np.concatenate((np.full(200 * 220, 0.1), np.full(200 * 220, 0.2))))
    assert float(steps.max()) == pytest.approx(20 * math.log10(2), abs=0.01)
    assert int(steps.argmax()) == pytest.approx(200, abs=1)


def test_effect_size_by_hand():
    curve = torch.zeros(101, dtype=torch.float64)
    curve[1::2] = 1.0  # elsewhere: mean 0.5, standard deviation 0.5
    curve[[20, 60]] = 3.0
    found = seam_effect(curve, torch.tensor([20, 60]), reach=0)
    free = torch.cat((curve[:20], curve[21:60], curve[61:]))
    assert found.effect == pytest.approx(float((3 - free.mean()) / free.std()), rel=1e-9)
    assert found.p == pytest.approx(1 / 1000, abs=0.002)
    with pytest.raises(ValueError, match="nothing to compare"):
        seam_effect(curve, torch.tensor([500]))


def test_flux_and_latent_steps():
    assert float(spectral_flux(np.zeros((2, RATE))).max()) == 0
    latents = torch.zeros(4, 10)
    latents[:, 6:] = 2.0
    assert latent_steps(latents).tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0]


def test_chunk_rate_line():
    rate, seconds, line = 100.0, 60.0, 43.07 / 16
    time = torch.arange(int(seconds * rate)) / rate
    envelope = torch.rand(len(time), generator=torch.Generator().manual_seed(0))
    assert abs(line_db(envelope, rate, line)) < 5
    assert line_db(envelope + (torch.sin(2 * math.pi * line * time) > 0.95).float(), rate, line) > 12
    assert line_db(envelope + torch.sin(2 * math.pi * 1.37 * line * time), rate, line) < 6
    with pytest.raises(ValueError, match="cannot be seen"):
        line_db(envelope[:100], rate, line)
    chunked = onset_envelope(concatenated())
    assert line_db(chunked, ONSET_RATE_HZ, 1 / CHUNK_SECONDS) > line_db(
        onset_envelope(noise(10.0)), ONSET_RATE_HZ, 1 / CHUNK_SECONDS
    )
