"""Streamed encoding and decoding equal the whole piece at once, for any strides, chunks and lengths."""

import random

import pytest
import torch
from torch import Tensor, nn

from models.streaming import StreamingDecoder, StreamingEncoder, layer_stream
from models.vae import VAE, VAEConfig
from models.vae_bands import BandsConfig
from models.vae_waveform import WaveformConfig

STRIDES = [(2,), (3, 5), (4, 2, 3), (2, 3, 2, 4), (8, 4)]


def small_vae(encoder_strides: tuple[int, ...], dilations: tuple[int, ...] = (1, 3), channels: int = 2) -> VAE:
    """A VAE of few channels with every weight, bias and statistic random, in float64."""
    config = VAEConfig(
        audio_channels=channels,
        latent_channels=3,
        waveform=WaveformConfig(
            encoder_width=2,
            encoder_strides=encoder_strides,
            decoder_width=3 * 2 ** len(encoder_strides),
            decoder_strides=encoder_strides[::-1],
            dilations=dilations,
        ),
    )
    generator = torch.Generator().manual_seed(sum(encoder_strides))
    vae = VAE(config).double().eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name.endswith("alpha"):
            parameter.copy_(noise.abs() + 0.5)
        else:
            parameter.copy_(0.7 * noise / parameter[0].numel() ** 0.5)
    vae.set_latent_statistics(torch.randn(3, generator=generator), torch.rand(3, generator=generator) + 0.5)
    return vae


def random_chunks(x: Tensor, sizes: list[int], rng: random.Random) -> list[Tensor]:
    """Cut the time axis into pieces whose lengths are drawn from `sizes`."""
    chunks, position = [], 0
    while position < x.shape[-1]:
        size = rng.choice(sizes)
        chunks.append(x[..., position : position + size])
        position += size
    return chunks


def stream_decode(vae: VAE, chunks: list[Tensor]) -> Tensor:
    stream = StreamingDecoder(vae)
    return torch.cat([*(stream.push(chunk) for chunk in chunks), stream.finish()], dim=-1)


def stream_encode(vae: VAE, chunks: list[Tensor]) -> tuple[Tensor, Tensor]:
    stream = StreamingEncoder(vae)
    posteriors = [*(stream.push(chunk) for chunk in chunks), stream.finish()]
    return torch.cat([p.mean for p in posteriors], dim=-1), torch.cat([p.std for p in posteriors], dim=-1)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("sizes", [[1], [7], [0, 1, 2, 5, 16], [1000]], ids=str)
def test_decoding_in_chunks_equals_the_whole(strides: tuple[int, ...], sizes: list[int]):
    vae = small_vae(strides)
    rng = random.Random(0)
    for num_frames in (1, 2, 29):
        latents = torch.randn(2, 3, num_frames, dtype=torch.float64)
        whole = vae.decode(latents)
        assert whole.std() > 0.01
        streamed = stream_decode(vae, random_chunks(latents, sizes, rng))
        torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-12)


def test_band_levels_and_shaped_noise_stream_too():
    torch.manual_seed(0)
    layers = BandsConfig(
        stem_stride=4, encoder_width=2, encoder_strides=(2, 3), decoder_width=12, decoder_strides=(3, 2)
    )
    config = VAEConfig(kind="bands", latent_channels=3, bands=layers)
    vae, rng = VAE(config).double().eval(), random.Random(0)
    audio = torch.randn(2, 2, 24 * 17 + 5, dtype=torch.float64)
    posterior = vae.posterior(audio)
    mean, std = stream_encode(vae, random_chunks(audio, [0, 1, 7, 20, 100], rng))
    torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(std, posterior.std, rtol=0, atol=1e-11)
    decoded = stream_decode(vae, random_chunks(mean, [0, 1, 3], rng))
    torch.testing.assert_close(decoded, vae.decode(mean), rtol=0, atol=1e-12)
    halfway, rest = StreamingDecoder(vae), StreamingDecoder(vae)
    before = halfway.push(mean[..., :9])
    rest.load_state_dict(halfway.state_dict())
    resumed = torch.cat((before, rest.push(mean[..., 9:]), rest.finish()), dim=-1)
    torch.testing.assert_close(resumed, vae.decode(mean), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("sizes", [[1], [17], [0, 1, 2, 5, 100], [10_000]], ids=str)
def test_encoding_in_chunks_equals_the_whole(strides: tuple[int, ...], sizes: list[int]):
    vae = small_vae(strides)
    rng = random.Random(0)
    for num_samples in (1, vae.hop_length, 7 * vae.hop_length + 3):
        audio = torch.randn(2, 2, num_samples, dtype=torch.float64)
        whole = vae.posterior(audio)
        mean, std = stream_encode(vae, random_chunks(audio, sizes, rng))
        torch.testing.assert_close(mean, whole.mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(std, whole.std, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(12))
def test_random_architectures(seed: int):
    rng = random.Random(seed)
    strides = tuple(rng.randint(2, 9) for _ in range(rng.randint(1, 3)))
    dilations = tuple(rng.randint(1, 9) for _ in range(rng.randint(0, 2)))
    vae = small_vae(strides, dilations, channels=rng.randint(1, 3))
    latents = torch.randn(1, 3, rng.randint(1, 40), dtype=torch.float64)
    audio = torch.randn(1, vae.config.audio_channels, rng.randint(1, 9 * vae.hop_length), dtype=torch.float64)
    streamed = stream_decode(vae, random_chunks(latents, [1, 2, 3, 11], rng))
    mean, _ = stream_encode(vae, random_chunks(audio, [1, 13, 64], rng))
    torch.testing.assert_close(streamed, vae.decode(latents), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean, vae.encode(audio), rtol=0, atol=1e-11)


def test_float32_agrees_to_rounding():
    vae = small_vae((4, 4, 8)).float()
    latents, audio = torch.randn(1, 3, 50), torch.randn(1, 2, 5_000)
    rng = random.Random(0)
    torch.testing.assert_close(
        stream_decode(vae, random_chunks(latents, [1, 3, 16], rng)), vae.decode(latents), rtol=1e-5, atol=1e-5
    )
    mean, _ = stream_encode(vae, random_chunks(audio, [1, 300, 2_000], rng))
    torch.testing.assert_close(mean, vae.encode(audio), rtol=1e-5, atol=1e-5)


def test_weight_norm_is_folded_into_the_stream():
    vae = small_vae((2, 3)).add_weight_norm()
    latents = torch.randn(1, 3, 12, dtype=torch.float64)
    torch.testing.assert_close(stream_decode(vae, [latents]), vae.decode(latents), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("decoder_strides", "context"),
    [((8, 8, 4, 4), 10), ((16, 8, 4, 2), 7), ((8, 4, 4, 4, 2), 11), ((8, 8, 4, 4, 2), 10)],
)
def test_context_of_known_decoders(decoder_strides: tuple[int, ...], context: int):
    layers = WaveformConfig(
        encoder_width=1, encoder_strides=decoder_strides[::-1], decoder_width=32, decoder_strides=decoder_strides
    )
    assert StreamingDecoder(VAE(VAEConfig(waveform=layers))).context_frames == (context, context)


def test_receptive_field_of_the_paper_encoder_is_15_5_latents():
    encoder = StreamingEncoder(VAE(VAEConfig(waveform=WaveformConfig(encoder_width=1, decoder_width=16))))
    before, after = encoder.context_samples
    assert (before + 1024 + after) / 1024 == 15.5


@pytest.mark.parametrize("strides", STRIDES)
def test_context_is_exactly_what_gradients_reach(strides: tuple[int, ...]):
    vae = small_vae(strides)
    before, after = StreamingDecoder(vae).context_frames
    frame = before + 2
    latents = torch.randn(1, 3, frame + after + 3, dtype=torch.float64, requires_grad=True)
    hop = vae.hop_length
    vae.decode(latents)[..., frame * hop : (frame + 1) * hop].square().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().sum(dim=(0, 1)).nonzero().squeeze(1)
    assert (int(reached[0]), int(reached[-1])) == (frame - before, frame + after)


def test_audio_comes_as_early_as_its_context_allows():
    vae = small_vae((4, 2))
    stream = StreamingDecoder(vae)
    _, lag = stream.context_frames
    num_samples = 0
    for num_frames in range(1, 40):
        num_samples += stream.push(torch.randn(1, 3, 1, dtype=torch.float64)).shape[-1]
        assert num_samples >= (num_frames - lag) * vae.hop_length


def test_state_does_not_grow():
    stream = StreamingDecoder(small_vae((4, 2)))

    def state_size() -> int:
        kept = [value for layer in walk(stream._layers) for value in vars(layer).values()]
        return sum(value.untyped_storage().nbytes() for value in kept if isinstance(value, Tensor))

    sizes = []
    for _ in range(4):
        for _ in range(5):
            stream.push(torch.randn(1, 3, 8, dtype=torch.float64))
        sizes.append(state_size())
    assert sizes[0] == sizes[-1]


def walk(layer: object) -> list[object]:
    """The layer and all layers inside it."""
    inner = getattr(layer, "layers", []) + ([layer.branch] if hasattr(layer, "branch") else [])  # pyright: ignore
    return [layer, *(deeper for each in inner for deeper in walk(each))]


def test_nothing_pushed_gives_nothing():
    vae = small_vae((2, 3))
    assert StreamingDecoder(vae).finish().shape == (1, 2, 0)
    assert StreamingEncoder(vae).finish().mean.shape == (1, 3, 0)


def test_layer_with_global_support_is_refused():
    with pytest.raises(ValueError, match="no exact streaming of GroupNorm"):
        layer_stream(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.GroupNorm(1, 2)))


@pytest.mark.parametrize("strides", [(3, 5), (4, 2, 3)])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_decoder_resumed_from_its_state_equals_one_that_never_stopped(strides: tuple[int, ...], at: int):
    vae = small_vae(strides)
    latents = torch.randn(1, 3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = StreamingDecoder(vae)
    start = [first.push(chunk) for chunk in latents[..., :at].split(3, dim=-1)]
    state = first.state_dict()
    first.push(latents[..., at:])  # the state is a snapshot
    second = StreamingDecoder(vae)
    second.load_state_dict(state)
    rest = [second.push(latents[..., at:]), second.finish()]
    torch.testing.assert_close(torch.cat([*start, *rest], dim=-1), vae.decode(latents))
