"""The autoencoder: sizes, lengths, normalisation, weight-norm, saving."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from models.discriminator import Discriminator, DiscriminatorConfig
from models.errors import UserError
from models.saved_config import build_config
from models.vae import VAE, Posterior, VAEConfig, in_kinds
from models.vae_bands import BandsConfig
from models.vae_waveform import WaveformConfig

SMALL = VAEConfig(
    latent_channels=4,
    waveform=WaveformConfig(encoder_width=4, encoder_strides=(2, 3, 4), decoder_width=16, decoder_strides=(4, 3, 2)),
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
def test_strides_of_two_hop_lengths_are_refused(name: str):
    with pytest.raises(UserError, match=r"the same product, the hop length, got .*\(4, 4\) = 16"):
        dataclasses.replace(WaveformConfig(), **{name: (4, 4)})


def test_a_kind_builds_its_own_layers_and_takes_no_others_sizes():
    assert VAEConfig().waveform == WaveformConfig()
    assert VAEConfig(kind="bands").bands == BandsConfig()
    assert VAEConfig(kind="bands").hop_length == 1024
    with pytest.raises(UserError, match=r"must be one of waveform, spectral, bands, got 'wavelet'"):
        VAEConfig(kind="wavelet")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"sizes of kind 'waveform' are given, but the autoencoder's kind is 'bands'"):
        VAEConfig(kind="bands", waveform=WaveformConfig(decoder_width=64))


def test_configurations_of_older_checkpoints_are_read():

    def read(saved: dict[str, Any]) -> VAEConfig:
        return build_config(VAEConfig, in_kinds(json.loads(json.dumps(saved)), "here"), "here")

    sizes = {"encoder_width": 4, "encoder_strides": [2], "decoder_width": 8, "decoder_strides": [2], "dilations": [1]}
    old = {"audio_channels": 1, "hop_length": 8, "stem_stride": 4, "band_levels": True} | sizes
    bands = VAEConfig(kind="bands", audio_channels=1, bands=BandsConfig(stem_stride=4, **sizes))
    assert read(old) == bands
    plain = {"hop_length": 2, "stem_stride": 1, "band_levels": False} | sizes
    assert read(plain) == VAEConfig(waveform=WaveformConfig(**sizes))
    assert read(bands.saved()) == bands
    assert "waveform" not in bands.saved()
    with pytest.raises(UserError, match="stem_stride and without band_levels"):
        read(old | {"band_levels": False})


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
