"""The autoencoder: sizes, lengths, normalisation, weight-norm, saving."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from models.discriminator import Discriminator, DiscriminatorConfig
from models.vae import VAE, Posterior, VAEConfig
from models.vae_layers import (
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

SMALL = VAEConfig(
    latent_channels=4,
    hop_length=24,
    encoder_width=4,
    encoder_strides=(2, 3, 4),
    decoder_width=16,
    decoder_strides=(4, 3, 2),
)


def small_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(SMALL)


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_scale_has_the_papers_parameters():
    with torch.device("meta"):
        vae, discriminator = VAE(VAEConfig()).add_weight_norm(), Discriminator(DiscriminatorConfig())
    assert num_parameters(vae) == 133_431_300
    assert num_parameters(vae.decoder) == 43_856_644
    assert num_parameters(discriminator) == 481_130


@pytest.mark.parametrize("samples", [24, 240, 241, 263, 1])
def test_lengths_round_up_to_whole_frames(samples: int):
    vae, audio = small_vae(), torch.randn(2, 2, samples)
    latents = vae.encode(audio)
    assert latents.shape == (2, 4, vae.num_frames(samples))
    assert vae.decode(latents).shape == (2, 2, vae.num_frames(samples) * 24)


def test_mono_works_and_a_wrong_channel_count_is_refused():
    vae = VAE(dataclasses.replace(SMALL, audio_channels=1))
    assert vae.decode(vae.encode(torch.randn(1, 1, 48))).shape == (1, 1, 48)
    with pytest.raises(ValueError, match=r"audio must be \(batch, 1, samples\), got shape \(1, 2, 48\)"):
        vae.encode(torch.randn(1, 2, 48))


@pytest.mark.parametrize("name", ["encoder_strides", "decoder_strides"])
def test_strides_that_miss_the_hop_length_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} must .* multiply to the hop length 24, got .* = 16"):
        dataclasses.replace(SMALL, **{name: (4, 4)})


def test_weight_norm_changes_nothing_and_folds_back():
    vae, audio = small_vae(), torch.randn(1, 2, 96)
    expected = vae.encode(audio)
    vae.add_weight_norm()
    torch.testing.assert_close(vae.encode(audio), expected, rtol=1e-5, atol=1e-5)
    folded = vae.folded()
    assert set(folded.state_dict()) == set(small_vae().state_dict())
    torch.testing.assert_close(folded.encode(audio), expected, rtol=1e-5, atol=1e-5)
    assert vae.encode(audio).shape == expected.shape  # the original still works


def test_latents_are_normalised_with_the_stored_statistics():
    vae, audio = small_vae(), torch.randn(1, 2, 480)
    raw = vae.raw_posterior(audio)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    vae.set_latent_statistics(mean, std)
    posterior = vae.posterior(audio)
    torch.testing.assert_close(posterior.mean * std[:, None] + mean[:, None], raw.mean)
    torch.testing.assert_close(posterior.std * std[:, None], raw.std)
    torch.testing.assert_close(vae.decode(posterior.mean), vae.decoder(raw.mean))


def test_statistics_that_cannot_normalise_are_refused():
    with pytest.raises(ValueError, match="must be finite and the std positive"):
        small_vae().set_latent_statistics(torch.zeros(4), torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_kl_is_twice_torchs_summed_over_channels():
    posterior = Posterior(torch.randn(3, 4, 5), torch.rand(3, 4, 5) + 0.1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(posterior.mean, posterior.std), normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), 2 * expected.sum(dim=1).mean())


def test_samples_come_from_the_generator():
    posterior = Posterior(torch.zeros(1, 4, 1000), torch.full((1, 4, 1000), 0.5))
    first, second = (posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.5, rel=0.05)


def test_starts_with_a_quiet_posterior_and_output():
    posterior = small_vae().raw_posterior(torch.randn(4, 2, 480) * 0.1)
    assert posterior.std.mean().item() == pytest.approx(0.05, abs=0.03)
    assert small_vae().decode(torch.randn(4, 4, 20)).abs().max() < 1


def test_save_and_load(tmp_path):
    vae = small_vae()
    vae.set_latent_statistics(torch.ones(4), torch.full((4,), 2.0))
    vae.save(tmp_path, dtype=torch.float32)
    loaded = VAE.load(tmp_path)
    audio = torch.randn(1, 2, 48)
    assert loaded.config == vae.config
    assert torch.equal(loaded.encode(audio), vae.encode(audio))
    with pytest.raises(ValueError, match="fold the weight-norm"):
        vae.add_weight_norm().save(tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_lapped_transform_reconstructs_and_is_orthonormal(channels: int):
    basis = lapped_transform(8, channels).double()
    audio = torch.randn(1, channels, 160, dtype=torch.float64)
    coefficients = nn.functional.conv1d(audio, basis, stride=8, padding=4)
    again = nn.functional.conv_transpose1d(coefficients, basis, stride=8, padding=4)
    torch.testing.assert_close(again[..., 8:-8], audio[..., 8:-8], atol=1e-5, rtol=0)
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(8 * channels, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_stem_takes_its_share_of_the_hop_length():
    config = dataclasses.replace(SMALL, stem_stride=4, encoder_strides=(2, 3), decoder_strides=(3, 2))
    vae = VAE(config)
    assert vae.decode(vae.encode(torch.randn(1, 2, 240))).shape == (1, 2, 240)
    assert vae.encoder[0].weight.shape == (4, 2, 8)
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\), stem 4 = 96"):
        dataclasses.replace(SMALL, stem_stride=4)
    with pytest.raises(ValueError, match="stem_stride must be 1 or even, got 3"):
        dataclasses.replace(SMALL, stem_stride=3, encoder_strides=(2, 4), decoder_strides=(4, 2))


BANDS = VAEConfig(
    latent_channels=4,
    hop_length=32,
    band_levels=True,
    stem_stride=8,
    encoder_width=8,
    encoder_strides=(2, 2),
    decoder_width=32,
    decoder_strides=(2, 2),
)


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


def test_band_levels_need_a_stem():
    with pytest.raises(ValueError, match="stem_stride must be a multiple of 4, got 1"):
        dataclasses.replace(SMALL, band_levels=True)


def test_tones_begin_neither_together_nor_one_after_the_other():
    cycles = 1024 / 44_100 * quarter_tones_hz(44_100)
    cosine, sine = ShapedTones(2, cycles, 1).carriers(0, 1)[0, ..., 0]
    starts = torch.atan2(sine, cosine) / (2 * math.pi) % 1
    for phases in (starts, starts.diff() % 1):  # steps from tone to tone that are all alike make a chirp
        assert (torch.histc(phases, bins=4, min=0, max=1) / len(phases) - 0.25).abs().max() < 0.08
