"""The autoencoder in the STFT domain: contract, streaming, reach, and the start from principal components."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from models.errors import UserError
from models.streaming import StreamingDecoder, StreamingEncoder
from models.vae import VAE, VAEConfig
from models.vae_spectral import SpectralConfig, SpectralDecoder, SpectralEncoder, start_from_components

SIZES = SpectralConfig(
    hop=64,
    window=256,
    short_bands=4,
    width=16,
    latent_width=24,
    expansion=2,
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    components=8,
    tone_channels=4,
    tone_width=16,
)
SMALL = VAEConfig(kind="spectral", latent_channels=14, spectral=SIZES)


def small_vae() -> VAE:
    """Random weights, tones that sound, and statistics that are not the identity."""
    torch.manual_seed(0)
    vae = VAE(SMALL).eval().requires_grad_(False)
    decoder = cast(SpectralDecoder, vae.decoder)
    decoder.trunk[-1].bias += 4  # pyright: ignore[reportOperatorIssue]
    decoder.bank.settings.weight.mul_(10)
    decoder.bank.settings.bias += 5  # pyright: ignore[reportOperatorIssue]
    vae.set_latent_statistics(torch.randn(14), torch.rand(14) + 0.5)
    return vae


def chunks(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(x.split([*sizes, x.shape[-1] - sum(sizes)], dim=-1))


def test_lengths_round_up_to_whole_frames_and_weights_come_back(tmp_path: Path):
    vae, audio = small_vae(), torch.randn(2, 2, 128 * 9 + 5)
    latents = vae.encode(audio)
    assert latents.shape == (2, 14, 10)
    assert vae.decode(latents).shape == (2, 2, 1280)
    vae.save(tmp_path, torch.float32)
    loaded = VAE.load(tmp_path)
    assert loaded.config == SMALL
    assert torch.equal(loaded.decode(loaded.encode(audio)), vae.decode(latents))


def test_default_sizes():
    config = VAEConfig(kind="spectral")
    assert config.hop_length == 1024
    with torch.device("meta"):
        vae = VAE(config)
    assert 15e6 < sum(p.numel() for p in vae.parameters()) < 16e6


@pytest.mark.parametrize("sizes", [[1, 1, 1], [7, 0, 20], [40]], ids=str)
def test_decoding_in_chunks_equals_the_whole_and_goes_on_from_its_state(sizes: list[int]):
    vae, latents = small_vae(), torch.randn(2, 14, 45)
    whole = vae.decode(latents)
    assert whole.std() > 0.1
    parts, state = [], None
    for chunk in chunks(latents, sizes):
        decoder = StreamingDecoder(vae)
        if state:
            decoder.load_state_dict(state)
        parts.append(decoder.push(chunk))
        state = decoder.state_dict()
    last = StreamingDecoder(vae)
    assert state is not None
    last.load_state_dict(state)
    torch.testing.assert_close(torch.cat([*parts, last.finish()], dim=-1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", [[1, 127, 300], [5000, 0, 100]], ids=str)
def test_encoding_in_chunks_equals_the_whole(sizes: list[int]):
    vae, audio = small_vae(), torch.randn(2, 2, 128 * 90 + 30)
    whole, stream = vae.posterior(audio), StreamingEncoder(vae)
    posteriors = [*(stream.push(chunk) for chunk in chunks(audio, sizes)), stream.finish()]
    for name in ("mean", "std"):
        streamed = torch.cat([getattr(p, name) for p in posteriors], dim=-1)
        torch.testing.assert_close(streamed, getattr(whole, name), rtol=0, atol=1e-4)


def test_the_reach_of_encoder_and_decoder_is_what_the_streams_say():
    vae = small_vae()
    before, after = StreamingDecoder(vae).context_frames
    latents, frame = torch.randn(1, 14, 60), 30
    other = latents.clone()
    other[..., frame] += 1
    decoder = cast(SpectralDecoder, vae.decoder)
    changed = (decoder.bins(other) != decoder.bins(latents)).any(dim=1)[0].nonzero().flatten() // 128
    assert frame - after <= changed.min() < frame
    assert frame < changed.max() <= frame + before
    lead, lag = StreamingEncoder(vae).context_samples
    audio = torch.randn(1, 2, 128 * 160)
    other = audio.clone()
    other[..., 128 * 80] += 10
    changed = (vae.encode(other) != vae.encode(audio)).any(dim=1)[0].nonzero().flatten()
    assert 80 - lag / 128 - 1 <= changed.min() < 80
    assert 80 < changed.max() <= 80 + lead / 128 + 1


def test_components_make_a_linear_autoencoder_of_levels():
    """Noise of random colours and levels, after one second of arithmetic and no training, has about its levels."""
    torch.manual_seed(0)

    def coloured(count: int) -> Tensor:
        spectrum = torch.fft.rfft(torch.randn(count, 1, 4096)).expand(-1, 2, -1)
        tilt = torch.linspace(0, 1, spectrum.shape[-1]) ** (3 * torch.rand(count, 1, 1)) + 0.01
        return torch.fft.irfft(spectrum * tilt) * 10 ** (-2 * torch.rand(count, 1, 1))

    vae = VAE(replace(SMALL, initial_log_std=-4.0)).eval().requires_grad_(False)
    encoder, decoder = cast(SpectralEncoder, vae.encoder), cast(SpectralDecoder, vae.decoder)

    def error() -> float:
        audio = coloured(16)
        reconstruction = decoder.bins(vae.raw_posterior(audio).mean)
        levels = [encoder.spectrum(x)[..., 8:-8].mean(dim=-1) for x in (audio, reconstruction)]
        return (levels[0] - levels[1])[:, : 2 * 129].abs().mean().item()

    before = error()
    start_from_components(encoder, decoder, coloured(64))
    assert error() < 0.4  # of a logarithm of power over 4: 7 dB
    assert error() < 0.4 * before


def test_the_tones_code_has_its_own_channels():
    vae = small_vae()
    encoder = cast(SpectralEncoder, vae.encoder)
    audio, tones = torch.randn(1, 2, 1280), torch.zeros(1, 255, 10)
    tones[:, 40] = 0.1
    with_tone, without = encoder.of_tones(audio, tones), encoder.of_tones(audio, torch.zeros(1, 255, 10))
    changed = (with_tone != without).flatten(2).any(dim=2)[0]
    assert changed.tolist() == [False] * 10 + [True] * 4 + [False] * 10 + [True] * 4
    latents = torch.randn(1, 14, 10)
    other = torch.cat((torch.randn(1, 10, 10), latents[:, 10:]), dim=1)
    decoder = cast(SpectralDecoder, vae.decoder)
    assert torch.equal(decoder.tones(latents)[0], decoder.tones(other)[0])  # as long as nothing was trained


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"window": 200}, "window must be a multiple of hop"),
        ({"short_bands": 3}, "short_bands must divide hop / short_steps = 16, got 3"),
        ({"components": 17}, "components must be at most width, got 17 > 16"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes: dict[str, int], told: str):
    with pytest.raises(UserError, match=told):
        replace(SIZES, **changes)


def test_mono_and_too_few_channels_are_refused():
    with pytest.raises(UserError, match="for stereo, got audio_channels 1"):
        VAE(replace(SMALL, audio_channels=1))
    with pytest.raises(UserError, match="must hold tone_channels and components, got 11 < 4 \\+ 8"):
        VAE(replace(SMALL, latent_channels=11))
