"""The shipped model's layers: lapped transform, levels, shaped noise and tones."""

import math

import pytest
import torch
from torch import nn

from models.errors import UserError
from models.vae import VAE, VAEConfig
from models.vae_bands import (
    BandsConfig,
    ShapedBands,
    ShapedTones,
    band_levels,
    fixed_noise,
    lapped_transform,
    quarter_tones_hz,
    shaped_noise,
    shaped_tones,
    tone_levels,
)

BANDS = VAEConfig(
    kind="bands",
    latent_channels=4,
    bands=BandsConfig(stem_stride=8, encoder_width=8, encoder_strides=(2, 2), decoder_width=32, decoder_strides=(2, 2)),
)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_lapped_transform_reconstructs_and_is_orthonormal(channels: int):
    basis = lapped_transform(8, channels).double()
    audio = torch.randn(1, channels, 160, dtype=torch.float64)
    coefficients = nn.functional.conv1d(audio, basis, stride=8, padding=4)
    again = nn.functional.conv_transpose1d(coefficients, basis, stride=8, padding=4)
    torch.testing.assert_close(again[..., 8:-8], audio[..., 8:-8], atol=1e-5, rtol=0)
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(8 * channels, dtype=torch.float64), atol=1e-5, rtol=0)


def test_levels_are_linear_in_db_and_know_the_sides():
    levels = band_levels(audio_channels=2, num_bands=8, factor=4, width=3)
    left = torch.cat((torch.randn(1, 1, 3200), torch.zeros(1, 1, 3200)), dim=1)
    both = (levels[:-1](gain * left).unflatten(1, (4, 8)) for gain in (1.0, 0.1))
    loud, quiet = (level.mean(dim=(0, 3)) for level in both)  # (view, band)
    torch.testing.assert_close(90 * (loud - quiet)[[0, 2, 3]], torch.full((3, 8), 20.0), atol=0.01, rtol=0)
    torch.testing.assert_close(90 * (loud[0] - loud[2:]), torch.full((2, 8), 3.01), atol=0.01, rtol=0)
    assert loud[1].abs().max() < 1e-6
    assert levels(left).shape == (1, 3, 100)


def test_a_full_scale_sine_is_at_full_level_in_its_band():
    levels = band_levels(audio_channels=1, num_bands=64, factor=1, width=3)
    sine = torch.sin(2 * torch.pi * (20 / 128) * torch.arange(6400))[None, None]
    level = levels[:-1](sine)[0, :, 10:-10]  # (bands, steps)
    assert (level.argmax(dim=0) == 19).all()  # the constant is left out
    torch.testing.assert_close(level[19], torch.ones_like(level[19]), atol=0.01, rtol=0)


def test_a_full_scale_sine_is_at_full_level_at_its_quarter_tone():
    levels = tone_levels(audio_channels=1, stride=256, sample_rate=8000, width=3)
    hz = quarter_tones_hz(8000)
    for tone in (60, 100, 140):
        sine = torch.sin(2 * torch.pi * hz[tone] / 8000 * torch.arange(256 * 40))[None, None].float()
        level = levels[:-1](sine)[0, :, 8:-8]  # (tones, steps)
        assert (level.argmax(dim=0) == tone).all()
        torch.testing.assert_close(level[tone], torch.ones_like(level[tone]), atol=0.01, rtol=0)
    assert levels(sine).shape == (1, 3, 40)


def test_any_stretch_of_the_fixed_noise_is_the_same():
    whole = fixed_noise(16, 0, 5000)
    assert torch.equal(whole[..., 700:900], fixed_noise(16, 700, 200))
    assert whole.std().item() == pytest.approx(1, abs=0.01)
    assert whole.mean().item() == pytest.approx(0, abs=0.01)
    correlation = torch.corrcoef(whole[0]) - torch.eye(16)
    assert correlation.abs().max() < 0.08
    assert not torch.equal(whole[..., :100], fixed_noise(16, 1 << 40, 100))
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        fixed_noise(6, 0, 1)


def test_noise_is_new_in_training_and_fixed_otherwise():
    torch.manual_seed(0)
    vae, latents = VAE(BANDS), torch.randn(2, 4, 9)
    assert not torch.equal(vae.train().decode(latents), vae.decode(latents))
    assert torch.equal(vae.eval().decode(latents), vae.decode(latents))


def test_shaped_noise_starts_faint_and_a_gain_sets_its_side():
    torch.manual_seed(0)
    noise = shaped_noise(3, stride=8, audio_channels=2).eval()
    shaped, x = noise[0], torch.zeros(1, 3, 4000)
    assert isinstance(shaped, ShapedBands)
    with torch.no_grad():
        shaped.initialise()
        audio = noise(x)[0]
        assert audio.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.02)
        assert torch.corrcoef(audio)[0, 1].abs() < 0.02
        assert shaped.gains.bias is not None
        gains = shaped.gains.bias.unflatten(0, (2, 8, 2))  # (audio channel, frequency, sum or difference)
        gains[1] -= 2 / shaped.pace
        left, right = noise(x)[0].square().mean(dim=1).sqrt()
        assert (left / right).log().item() == pytest.approx(2, abs=0.05)
        gains[..., 1] = -30
        assert torch.corrcoef(noise(x)[0])[0, 1] > 0.999


def test_a_shaped_tone_is_one_endless_sine_at_its_frequency():
    tones = shaped_tones(3, stride=64, audio_channels=2, sample_rate=8000).eval()
    shaped, hz = tones[0], quarter_tones_hz(8000)
    assert isinstance(shaped, ShapedBands)
    assert hz[0].item() == pytest.approx(32.703, abs=1e-3)
    assert hz[-1] < 3600
    tone = int((hz - 440).abs().argmin())
    assert hz[tone].item() == pytest.approx(440)
    with torch.no_grad():
        shaped.gains.weight.zero_()
        assert shaped.gains.bias is not None
        gains = shaped.gains.bias.unflatten(0, (2, len(hz)))
        gains.fill_(-40)
        gains[0, tone] = 2.0 / shaped.pace
        left, right = tones(torch.zeros(1, 3, 200))[0, :, 64:-64].double()
        late = tones[1](shaped.from_step(torch.zeros(1, 3, 50), 150))[0, 0, 64:-64].double()
    n = torch.arange(len(left), dtype=torch.float64) + 64
    basis = torch.stack([f(2 * torch.pi * 440 / 8000 * n) for f in (torch.cos, torch.sin)], dim=1)
    fit = basis @ torch.linalg.lstsq(basis, left[:, None]).solution
    torch.testing.assert_close(left, fit[:, 0], atol=1e-4, rtol=0)
    assert left.abs().max().item() == pytest.approx(math.log1p(math.exp(2.0)), rel=0.01)
    assert right.abs().max() < 1e-6
    torch.testing.assert_close(late, left[-len(late) :], atol=1e-6, rtol=0)


def test_the_stem_takes_its_share_of_the_hop_length():
    vae = VAE(BANDS)
    assert vae.hop_length == 32
    assert vae.decode(vae.encode(torch.randn(1, 2, 320))).shape == (1, 2, 320)
    with pytest.raises(UserError, match="stem_stride must be a multiple of 4, got 6"):
        BandsConfig(stem_stride=6)


def test_tones_begin_neither_together_nor_one_after_the_other():
    cycles = 1024 / 44_100 * quarter_tones_hz(44_100)
    cosine, sine = ShapedTones(2, cycles, 1).carriers(0, 1)[0, ..., 0]
    starts = torch.atan2(sine, cosine) / (2 * math.pi) % 1
    for phases in (starts, starts.diff() % 1):  # steps from tone to tone that are all alike make a chirp
        assert (torch.histc(phases, bins=4, min=0, max=1) / len(phases) - 0.25).abs().max() < 0.08
