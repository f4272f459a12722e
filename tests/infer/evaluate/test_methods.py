"""The methods that endless generation is compared with, as plans of the same stream."""

import math
from dataclasses import replace

import pytest
import torch

from infer.evaluate.methods import CLIP_METHODS, ClipDecoding, ComparedMethod, compared_stream, plan_of
from infer.fifo import QueueOptions, StreamConfig
from infer.generate import generate
from infer.guidance import GuidanceConfig
from infer.limiter import limit
from infer.samplers import SamplingConfig
from models.queue import QueueConfig
from models.text_to_audio import TextToAudio

RAIN, CLOCK = "heavy rain", "a clock ticks"
SHAPE = QueueConfig(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1)
CONFIG = StreamConfig(
    queue=QueueOptions(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1),
    guidance=GuidanceConfig(scale=2.0),
)
METHODS: list[ComparedMethod] = ["fifo", "fifo-diffusion", "plain-fifo", "slide", "crossfade", "concatenate"]


@pytest.fixture
def model(tiny_model: TextToAudio, monkeypatch: pytest.MonkeyPatch) -> TextToAudio:
    """The tiny model with a short training window."""
    monkeypatch.setattr(tiny_model, "config", replace(tiny_model.config, window_frames=24))
    return tiny_model


def test_what_the_methods_are(model: TextToAudio):
    def shape(method: ComparedMethod) -> tuple[int, ...]:
        queue = plan_of(method, SHAPE, SamplingConfig(), model, crossfade_seconds=0.1).queue
        return queue.context_frames, queue.chunk_frames, queue.num_chunks, queue.num_steps

    assert shape("fifo") == (8, 4, 4, 4)
    assert shape("plain-fifo") == (0, 1, 16, 16)
    assert plan_of("plain-fifo", SHAPE, SamplingConfig(), model).sampler == "ddim"
    assert shape("slide") == (12, 12, 1, 4)
    assert shape("concatenate") == shape("crossfade") == (0, 24, 1, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_takes_cues_and_ends_at_its_length(model: TextToAudio, method: ComparedMethod):
    stream = compared_stream(model, RAIN, replace(CONFIG, seconds=1.5), method, crossfade_seconds=0.1)
    stream.cue(0.8, CLOCK)
    audio = torch.cat(list(stream), dim=-1)
    assert audio.shape == (1, 2, 66_150)
    assert torch.isfinite(audio).all()
    assert audio[..., -1].abs().max() == 0
    plain = compared_stream(model, RAIN, CONFIG, method, crossfade_seconds=0.1).read(1.5)
    assert not torch.allclose(plain[..., 44_100:], audio[..., 44_100:], atol=1e-3)
    if method not in CLIP_METHODS:  # the text reaches back as far as the network and the decoder look ahead
        assert not torch.equal(plain, audio)


def test_concatenated_clips_are_what_generate_makes(model: TextToAudio):
    seconds = 24 * 1024 / 44_100
    audio = compared_stream(model, RAIN, CONFIG, "concatenate").read(2 * seconds)[0]
    clip = generate(model, [RAIN], seconds=seconds, seeds=[0], guidance=CONFIG.guidance, num_steps=4)[0]
    length = clip.shape[1] - 900  # before its fade
    assert torch.allclose(audio[:, :length], clip[:, :length], atol=1e-4)


@pytest.mark.parametrize("overlap", [0, 1000])
def test_clips_are_joined_at_equal_power(model: TextToAudio, overlap: int):
    clips = 0.1 * torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    decoding = ClipDecoding(model, 1, overlap)
    joined = torch.cat([*(decoding.push(clip[None]) for clip in clips), decoding.finish()], dim=-1)[0]
    apart = [model.decode(clip[None])[0] for clip in clips]
    period = 8 * 1024 - overlap
    assert joined.shape[1] == 3 * period + overlap
    expected = torch.zeros(2, joined.shape[1])
    rise = torch.sin((torch.arange(overlap) + 0.5) / max(overlap, 1) * math.pi / 2)
    for k, audio in enumerate(apart):
        gain = torch.ones(8 * 1024)
        if overlap and k > 0:
            gain[:overlap] = rise
        if overlap and k < 2:
            gain[-overlap:] = rise.flip(0)
        expected[:, k * period : k * period + 8 * 1024] += gain * audio
    assert torch.allclose(joined, limit(expected), atol=1e-5)


def test_a_crossfade_longer_than_half_a_clip_is_refused(model: TextToAudio):
    with pytest.raises(ValueError, match="half a clip, got 5"):
        plan_of("crossfade", SHAPE, SamplingConfig(), model, crossfade_seconds=5.0)
