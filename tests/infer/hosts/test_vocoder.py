import pytest
import torch
import torchaudio
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from infer.hosts.vocoder import ResamplerStream, vocoder_stream
from models.streaming import LayerStream


def run(stream: LayerStream, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Push x in pieces of the given sizes, the rest last."""
    sizes = [*sizes, x.shape[-1] - sum(sizes)]
    pieces = list(x.split(sizes, dim=-1))
    return torch.cat([stream.push(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)], dim=-1)


@pytest.fixture
def vocoder() -> SpeechT5HifiGan:
    torch.manual_seed(0)
    config = SpeechT5HifiGanConfig(
        model_in_dim=16,
        upsample_initial_channel=32,
        upsample_rates=[5, 4, 2],
        upsample_kernel_sizes=[16, 16, 8],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5]] * 2,
        normalize_before=False,
    )
    return SpeechT5HifiGan(config).eval()


@pytest.mark.parametrize("sizes", [[], [1, 7, 30], [40, 0, 20]])
@torch.no_grad()
def test_streamed_vocoder_is_the_whole_one(vocoder, sizes):
    mel = torch.randn(2, 64, 16)
    expected = vocoder(mel)  # (batch, samples), a few more than 40 a frame
    given = run(vocoder_stream(vocoder), mel.transpose(1, 2), sizes)[:, 0]
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("source", "target"), [(16_000, 44_100), (44_100, 16_000), (16_000, 32_000)])
def test_resampled_sine_is_the_sine(source, target):
    seconds = torch.arange(4_001) / source
    given = run(ResamplerStream(source, target), torch.sin(2 * torch.pi * 440 * seconds)[None, None], [13, 500])[0, 0]
    assert len(given) == -(-4_001 * target // source)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(len(given)) / target)
    inner = slice(len(given) // 8, -len(given) // 8)
    torch.testing.assert_close(given[inner], expected[inner], atol=2e-4, rtol=0)


def test_resampler_agrees_with_torchaudio():
    x = torch.randn(2, 1, 1_600)
    given = run(ResamplerStream(16_000, 44_100, zeros=32, rolloff=0.97), x, [700, 1])
    expected = torchaudio.functional.resample(x, 16_000, 44_100, lowpass_filter_width=32, rolloff=0.97)
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)


def test_chunks_and_a_resumed_resampler_equal_the_whole():
    x = torch.randn(1, 1, 3_000)
    whole = run(ResamplerStream(16_000, 44_100), x, [])
    first, second = ResamplerStream(16_000, 44_100), ResamplerStream(16_000, 44_100)
    start = first.push(x[..., :1_234], last=False)
    second.load_state(first.state())
    joined = torch.cat((start, second.push(x[..., 1_234:], last=True)), dim=-1)
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_span_of_the_resampler_holds_what_an_output_depends_on():
    stream = ResamplerStream(16_000, 44_100)
    x = torch.randn(1, 1, 1_000, requires_grad=True)
    run(stream, x, [])[0, 0, 900:911].sum().backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero()[:, 0]
    first, last = stream.input_span(900, 910)
    assert first <= int(touched.min()) <= int(touched.max()) <= last
