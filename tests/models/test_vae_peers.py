"""The autoencoder beside descript-audio-codec's and diffusers': the same function, sizes and lengths; not slower.

They come with the extra `peers`; without them these tests are skipped.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.vae import VAE, VAEConfig
from models.vae_waveform import Snake, WaveformConfig

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture
def dac() -> Any:
    return pytest.importorskip("dac.model.dac")


@pytest.fixture
def oobleck() -> Any:
    return pytest.importorskip("diffusers.models.autoencoders.autoencoder_oobleck")


def our_vae(
    strides: tuple[int, ...], channels: int = 1, encoder_width: int = 8, decoder_width: int = 64, latents: int = 6
) -> VAE:
    torch.manual_seed(0)
    return VAE(
        VAEConfig(
            audio_channels=channels,
            latent_channels=latents,
            waveform=WaveformConfig(
                encoder_width=encoder_width,
                encoder_strides=strides,
                decoder_width=decoder_width,
                decoder_strides=strides[::-1],
            ),
        )
    )


def layers_of(network: nn.Module) -> nn.Sequential:
    """Encoder or decoder, as one can cut it."""
    assert isinstance(network, nn.Sequential)
    return network


def dac_coder(dac: Any, vae: VAE) -> tuple[Any, Any]:
    """Encoder (without our projection to mean and scale) and decoder of the same sizes."""
    config, layers = vae.config, vae.config.waveform
    width = layers.encoder_width * 2 ** len(layers.encoder_strides)
    return (
        dac.Encoder(layers.encoder_width, list(layers.encoder_strides), width),
        dac.Decoder(config.latent_channels, layers.decoder_width, list(layers.decoder_strides), config.audio_channels),
    )


def oobleck_vae(oobleck: Any, vae: VAE, folded: bool = True) -> Any:
    """Autoencoder of the same widths; its encoder ends in a convolution of its own."""
    layers = vae.config.waveform
    levels = len(layers.encoder_strides)
    theirs = oobleck.AutoencoderOobleck(
        encoder_hidden_size=layers.encoder_width,
        downsampling_ratios=list(layers.encoder_strides),
        channel_multiples=[2 ** (level + 1) for level in range(levels)],
        decoder_channels=layers.decoder_width // 2**levels,
        decoder_input_channels=layers.encoder_width // 2,
        audio_channels=vae.config.audio_channels,
    )
    return remove_weight_norm(theirs) if folded else theirs


def remove_weight_norm(module: Any) -> Any:
    for layer in module.modules():
        if hasattr(layer, "weight_g"):
            nn.utils.remove_weight_norm(layer)
    return module


def convolutions(module: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]


@torch.no_grad()
def copy_to_peer(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy convolutions and Snakes in the order in which they are applied, which is the order of their definition."""
    for mine, peer in zip(convolutions(ours), convolutions(theirs), strict=True):
        assert mine.weight.shape == peer.weight.shape
        assert (mine.stride, mine.padding, mine.dilation) == (peer.stride, peer.padding, peer.dilation)
        peer.weight.copy_(mine.weight)
        if peer.bias is not None:
            assert mine.bias is not None
            peer.bias.copy_(mine.bias)
    snakes: list[Any] = [layer for layer in theirs.modules() if type(layer).__name__ == "Snake1d"]
    for mine, peer in zip((layer for layer in ours.modules() if isinstance(layer, Snake)), snakes, strict=True):
        mine.alpha.uniform_(0.5, 2.0)
        if hasattr(peer, "beta"):  # diffusers keeps logarithms, of frequency and of height
            peer.alpha.copy_(mine.alpha.log())
            peer.beta.copy_(mine.alpha.log())
        else:
            peer.alpha.copy_(mine.alpha)


def num_parameters(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("strides", [(2, 4), (4, 4, 8), (2, 6, 4)])
def test_descript_audio_codec_computes_the_same(dac, strides: tuple[int, ...]):
    vae = our_vae(strides)
    encoder, decoder = (remove_weight_norm(part) for part in dac_coder(dac, vae))
    copy_to_peer(layers_of(vae.encoder)[:-1], encoder)
    copy_to_peer(vae.decoder, decoder)
    audio, latents = torch.randn(2, 1, 9 * vae.hop_length), torch.randn(2, 6, 11)
    with torch.no_grad():
        torch.testing.assert_close(layers_of(vae.encoder)[:-1](audio), encoder(audio), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vae.decoder(latents), decoder(latents), rtol=1e-4, atol=1e-5)


def test_descript_audio_codec_has_the_papers_number_of_parameters(dac):
    with torch.device("meta"):
        vae = VAE(VAEConfig(audio_channels=1)).add_weight_norm()
        peers = dac_coder(dac, vae)
    assert num_parameters([layers_of(vae.encoder)[:-1], vae.decoder]) == num_parameters(peers)


@pytest.mark.parametrize("strides", [(2, 4), (4, 4, 8)])
def test_diffusers_oobleck_computes_the_same(oobleck, strides: tuple[int, ...]):
    vae = our_vae(strides, channels=2, latents=4)
    theirs = oobleck_vae(oobleck, vae)
    decoder = layers_of(vae.decoder)[:-1]  # theirs has no tanh and no bias in its last convolution
    copy_to_peer(decoder, theirs.decoder)
    copy_to_peer(
        layers_of(vae.encoder)[:-2], nn.ModuleList([theirs.encoder.conv1, theirs.encoder.block, theirs.encoder.snake1])
    )
    audio, latents = torch.randn(2, 2, 9 * vae.hop_length), torch.randn(2, 4, 11)
    with torch.no_grad():
        torch.testing.assert_close(decoder(latents), theirs.decode(latents).sample, rtol=1e-4, atol=1e-5)
        x = theirs.encoder.conv1(audio)
        for block in theirs.encoder.block:
            x = block(x)
        torch.testing.assert_close(layers_of(vae.encoder)[:-2](audio), theirs.encoder.snake1(x), rtol=1e-4, atol=1e-5)


def test_posterior_is_diffusers(oobleck):
    vae = our_vae((2, 4), latents=3)
    encoded = torch.randn(2, 6, 20)
    ours, theirs = vae.raw_posterior_of(encoded), oobleck.OobleckDiagonalGaussianDistribution(encoded)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.std, theirs.std)
    torch.testing.assert_close(ours.kl(), theirs.kl())


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 5) -> float:
    """CPU time of ours over theirs, measured in turn."""
    durations: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for call, kept in zip((ours, theirs), durations, strict=True):
            start = time.process_time()
            call()
            kept.append(time.process_time() - start)
    return statistics.median(durations[0][1:]) / statistics.median(durations[1][1:])


def training_step(network: nn.Module, forward: Callable[[Tensor], Tensor], audio: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        (forward(audio) - audio).square().mean().backward()
        optimiser.step()

    return step


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["dac", "oobleck"])
def test_not_slower_than_the_peers(peer: str, request: pytest.FixtureRequest, record_property):
    module = request.getfixturevalue(peer)
    vae = our_vae((4, 4, 8, 8), 1 if peer == "dac" else 2, encoder_width=16, decoder_width=256, latents=8)
    vae.add_weight_norm()
    audio = 0.1 * torch.randn(2, vae.config.audio_channels, 32_768)
    if peer == "dac":
        encoder, decoder = dac_coder(module, vae)
        projection = nn.Conv1d(vae.config.waveform.encoder_width * 16, 8, 1)
        theirs = nn.ModuleList([encoder, projection, decoder])
        step = training_step(theirs, lambda x: decoder(projection(encoder(x))), audio)
        decode: Callable[[Tensor], object] = decoder
    else:
        theirs = oobleck_vae(module, vae, folded=False)
        step = training_step(theirs, lambda x: theirs.decode(theirs.encode(x).latent_dist.sample()).sample, audio)
        decode = theirs.decode
    ratios = {"step": ratio(training_step(vae, lambda x: vae(x)[0], audio), step)}
    plain, latents = vae.folded(), torch.randn(1, 8, 64)
    with torch.no_grad():
        ratios["decode"] = ratio(lambda: plain.decode(latents), lambda: decode(latents))
    record_property("time_of_ours_over_theirs", ratios)
    assert ratios["step"] < 1.05
    assert ratios["decode"] < 1.05
