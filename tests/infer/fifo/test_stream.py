"""The stream as one object: every method, length and ending, cues in the sound, the measured delay, the cost."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infer.fifo import EndlessStream, Fifo, FifoConfig, StreamConfig
from infer.fifo.baselines import CLIP_METHODS, ClipDecoding, StreamMethod, queue_of
from infer.fifo.cues import CueMode
from infer.fifo.guards import DriftGuard, GuardConfig
from infer.fifo.timing import StreamTiming, Timeline
from infer.generate import generate
from infer.guidance import GuidanceConfig, prompt_denoiser
from infer.limiter import limit
from infer.samplers import make_generators
from infer.stream import decode_stream
from models.diffusion import alpha_sigma
from models.text_to_audio import TextToAudio

RAIN, CLOCK = "heavy rain", "a clock ticks"
RATE = 44_100 / 1024
QUEUE = FifoConfig(context=8, chunk=4, num_chunks=4, micro_steps=1)
CONFIG = StreamConfig(fifo=QUEUE, guidance=GuidanceConfig(scale=2.0))
METHODS: list[StreamMethod] = ["fifo", "plain-fifo", "infinite-audio", "slide", "crossfade", "concatenate"]


@pytest.fixture
def model(tiny_model: TextToAudio, monkeypatch: pytest.MonkeyPatch) -> TextToAudio:
    """The tiny model with a short training window."""
    monkeypatch.setattr(tiny_model, "config", replace(tiny_model.config, window_frames=24))
    return tiny_model


def latents_of(stream: EndlessStream, num_chunks: int) -> Tensor:
    return torch.cat([stream.next_latents() for _ in range(num_chunks)], dim=-1)


def test_it_is_the_queue_guided_and_decoded(model: TextToAudio):
    config = replace(CONFIG, guidance=GuidanceConfig(scale=3.0, rescale=0.5))
    stream = EndlessStream(model, RAIN, config)
    got = stream.read(0.8)
    start, total = Timeline.of(config.timing, model, QUEUE.window).at(0.0)
    denoiser = prompt_denoiser(model, [RAIN], config.guidance, seconds_start=start, seconds_total=total)
    queue = Fifo(denoiser, QUEUE, channels=4, generators=make_generators(0, 1))
    expected = torch.cat(list(decode_stream(islice(queue, 15), model.vae)), dim=-1)
    assert got.shape == (2, 35_280)
    assert stream.seconds == 0.8
    assert torch.allclose(got, expected[:, :35_280], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_takes_cues_and_ends_at_its_length(model: TextToAudio, method: StreamMethod):
    stream = EndlessStream(model, RAIN, replace(CONFIG, method=method, seconds=1.5, crossfade_seconds=0.1))
    stream.cue(0.8, CLOCK)
    pieces = list(stream)
    audio = torch.cat(pieces, dim=-1)
    assert audio.shape == (2, 66_150)
    assert audio.abs().max() <= 1
    assert torch.isfinite(audio).all()
    assert audio[:, -1].abs().max() == 0
    assert next(stream, None) is None
    plain = EndlessStream(model, RAIN, replace(CONFIG, method=method, crossfade_seconds=0.1)).read(1.5)
    assert not torch.allclose(plain[:, 44_100:], audio[:, 44_100:], atol=1e-3)
    if method not in CLIP_METHODS:  # the text reaches back as far as the network and the decoder look ahead
        assert not torch.equal(plain, audio)


def test_what_the_methods_are():
    assert queue_of("fifo", QUEUE, 24) is QUEUE
    plain = queue_of("plain-fifo", QUEUE, 24)
    assert (plain.window, plain.chunk, plain.num_steps, plain.micro_steps, plain.sampler) == (16, 1, 16, 1, "ddim")
    assert queue_of("plain-fifo", QUEUE, 24, lookahead_frames=6).num_context == 6
    paper = queue_of("infinite-audio", replace(QUEUE, focus="last"), 24)
    assert (paper.num_context, paper.chunk, paper.num_steps, paper.sampler) == (8, 1, 16, "ddim")
    assert (paper.grid().diff()[:3] < 0.06).all()  # all steps of the last third, every third of the others
    assert (paper.grid().diff()[-3:] > 0.09).all()
    slide = queue_of("slide", QUEUE, 24)
    assert (slide.num_context, slide.chunk, slide.num_chunks, slide.num_steps) == (12, 12, 1, 4)
    clips = queue_of("concatenate", QUEUE, 24)
    assert (clips.window, clips.num_chunks, clips.num_steps) == (24, 1, 4)


def test_concatenated_clips_are_what_generate_makes(model: TextToAudio):
    seconds = 24 * 1024 / 44_100
    config = replace(CONFIG, method="concatenate")
    audio = EndlessStream(model, RAIN, config).read(2 * seconds)
    clip = generate(model, [RAIN], seconds=seconds, seeds=[0], guidance=config.guidance, num_steps=4)[0]
    length = clip.shape[1] - 900  # before its fade
    assert torch.allclose(audio[:, :length], clip[:, :length], atol=1e-4)


@pytest.mark.parametrize("overlap", [0, 1000])
def test_clips_are_joined_at_equal_power(model: TextToAudio, overlap: int):
    clips = 0.1 * torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    decoding = ClipDecoding(model.vae, overlap)
    joined = torch.cat([*(decoding.push(clip[None]) for clip in clips), decoding.finish()], dim=-1)
    apart = [model.vae.decode(clip[None])[0] for clip in clips]
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


class TellsTheText(nn.Module):
    """In place of the U-Net: sure that the latents are the mean of the text's tokens, whatever stands around them."""

    def forward(self, latents: Tensor, t: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        weight = mask[:, :, None].float()
        level = (context * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))  # (batch,)
        alpha, sigma = (value[:, None] for value in alpha_sigma(t.clamp(min=1e-3)))
        return (alpha * latents - level[:, None, None]) / sigma


@pytest.mark.parametrize(("mode", "seconds"), [("bind", 1.0), ("switch", 1.0), ("glide", 1.0), ("bind", 0.45)])
def test_measured_delay_of_a_cue_is_what_is_said(model: TextToAudio, mode: CueMode, seconds: float):
    """Latents show the text that each frame was made from: before the announced time the old, from its end the new."""
    config = replace(CONFIG, guidance=GuidanceConfig(scale=1.0), fifo=replace(QUEUE, sampler="ddim", micro_steps=2))
    levels = {}
    for text in (RAIN, CLOCK):
        stream = EndlessStream(model, text, config)
        stream._steering.network = TellsTheText()
        levels[text] = float(latents_of(stream, 1).mean())
    stream = EndlessStream(model, RAIN, config)
    stream._steering.network = TellsTheText()
    start = latents_of(stream, 4)
    effect = stream.cue(seconds, CLOCK, mode, glide_seconds=0.3)
    frames = torch.cat((start, latents_of(stream, 26)), dim=-1).mean(dim=(0, 1))  # (frames,)
    share = (frames - levels[RAIN]) / (levels[CLOCK] - levels[RAIN])
    begins, complete = round(effect.begins_seconds * RATE), round(effect.complete_seconds * RATE)
    assert torch.allclose(share[:begins], torch.zeros(begins), atol=1e-4)
    assert torch.allclose(share[complete:], torch.ones(len(share) - complete), atol=1e-4)
    assert abs(effect.begins_seconds - seconds) < 4 / RATE  # a chunk
    glide = 0.3 if mode == "glide" else 0.0
    assert effect.complete_seconds <= seconds + stream.lead_seconds + glide + 1 / RATE
    if mode == "bind" and seconds == 1.0:
        assert begins == complete == 43
        assert share[42] < 1e-4
        assert share[43] > 1 - 1e-4


def test_only_an_endless_queue_is_held_to_its_beginning_unasked(model: TextToAudio):
    def pull(**changes: Any) -> float | None:
        return EndlessStream(model, RAIN, replace(CONFIG, **changes))._guard.config.pull

    assert pull() == 1
    assert pull(guards=GuardConfig(pull=0.2), method="slide") == 0.2
    assert pull(method="infinite-audio") == pull(method="concatenate") == 0
    assert pull(timing=StreamTiming(mode="true"), seconds=5.0) == 0


def test_the_guard_forgets_the_old_text_where_the_new_one_is_heard(model: TextToAudio, monkeypatch: pytest.MonkeyPatch):
    forgotten: list[int] = []
    monkeypatch.setattr(DriftGuard, "forget", lambda *_: forgotten.append(len(played)))
    played: list[Tensor] = []
    stream = EndlessStream(model, RAIN, CONFIG)
    stream.cue(12 / RATE, CLOCK)  # at the fourth chunk
    for _ in range(6):
        played.append(stream.next_latents())
    assert forgotten == [3]  # once, as the fourth chunk comes to the front


def test_the_guard_stays_as_it_is_where_the_ending_begins(model: TextToAudio, monkeypatch: pytest.MonkeyPatch):
    starts: list[float] = []
    monkeypatch.setattr(DriftGuard, "hold", lambda _: starts.append(stream._steering.start_seconds))
    stream = EndlessStream(model, RAIN, replace(CONFIG, seconds=3.0, timing=StreamTiming(ending=True)))
    list(stream)
    assert 0 <= starts[0] - (3.0 - 2 * QUEUE.window / RATE) < QUEUE.chunk / RATE


def test_cues_from_the_past_take_effect_as_soon_as_they_can(model: TextToAudio):
    stream = EndlessStream(model, RAIN, CONFIG)
    stream.read(0.6)
    effect = stream.cue(None, CLOCK, "switch")
    assert 0.6 <= effect.begins_seconds < 0.6 + 0.5
    assert effect.complete_seconds - effect.begins_seconds == pytest.approx(stream.lead_seconds)
    with pytest.raises(ValueError, match="prompt is empty"):
        stream.cue(3.0, " ")


@pytest.mark.parametrize("timing", [StreamTiming(ending=True), StreamTiming(mode="true", piece_seconds=10)])
def test_an_ending_is_played_by_the_model(model: TextToAudio, timing: StreamTiming):
    told = []
    config = replace(CONFIG, seconds=1.2, timing=timing)
    stream = EndlessStream(model, RAIN, config)
    ask = stream._steering.timing
    stream._steering.timing = lambda seconds: told.append(ask(seconds)) or told[-1]
    shown = []
    network = stream._steering.network

    def recorder(latents: Tensor, t: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        shown.append(latents.shape[-1])
        return network(latents, t, context, mask)

    stream._steering.network = recorder
    assert torch.cat(list(stream), dim=-1).shape == (2, 52_920)
    assert told[-1][1] == pytest.approx(1.2)
    assert told[-1][0] == pytest.approx((13 * 4 - 4 - 8) / RATE)
    assert shown[-4:] == [24, 20, 16, 12]  # the queue runs empty behind the context


def test_starting_from_a_clip(model: TextToAudio):
    config = replace(CONFIG, start="clip")
    stream = EndlessStream(model, RAIN, config)
    audio = stream.read(1.0)
    assert audio.shape == (2, 44_100)
    longer = replace(config, fifo=replace(QUEUE, num_chunks=9))  # the queue is longer than a clip: 12 frames too many
    stream = EndlessStream(model, RAIN, longer)
    heard = []
    stream.on_latents = heard.append
    assert stream.read(0.5).shape == (2, 22_050)
    assert stream._fifo.num_emitted == len(heard) + 3


def test_partitions_and_guards_are_reached(model: TextToAudio):
    plain = latents_of(EndlessStream(model, RAIN, CONFIG), 8)
    changed = {
        "partitions": replace(CONFIG, partition_frames=8),
        "lookahead": replace(CONFIG, partition_frames=8, lookahead=True),
        "pull": replace(
            CONFIG,
            guards=GuardConfig(pull=1.0, beginning_seconds=0.1, mean_zone=1e-3, deviation_zone=1e-3, seconds=0.1),
        ),
        "renoise": replace(
            CONFIG, guards=GuardConfig(renoise=True, renoise_below=100, seconds=0.1, renoise_every_seconds=0.2)
        ),
        "slots": replace(CONFIG, clean_scale=6.0),
    }
    for name, config in changed.items():
        latents = latents_of(EndlessStream(model, RAIN, config), 8)
        assert torch.isfinite(latents).all()
        assert not torch.allclose(latents, plain, atol=1e-3), name


def test_bad_requests(model: TextToAudio):
    for config, message in (
        (replace(CONFIG, lookahead=True), "needs partition_frames"),
        (replace(CONFIG, timing=StreamTiming(mode="true")), "need the length"),
        (replace(CONFIG, method="crossfade", crossfade_seconds=5.0), "half a clip, got 5"),
        (replace(CONFIG, seconds=-1.0), "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            EndlessStream(model, RAIN, config)
    with pytest.raises(ValueError, match="prompt is empty"):
        EndlessStream(model, " ", CONFIG)


def test_the_network_works_no_more_late_than_early(model: TextToAudio):
    """Calls, rows and frames per chunk are constant, also after many cues."""
    stream = EndlessStream(model, RAIN, replace(CONFIG, guards=GuardConfig(pull=0.1, renoise=True)))
    work = []

    def network(latents: Tensor, t: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        work.append((latents.shape, context.shape))
        return model.unet(latents, t, context, mask)

    stream._steering.network = network
    latents_of(stream, 8)
    early = work[-4:]
    for number in range(12):
        stream.cue(None, (RAIN, CLOCK)[number % 2])
        latents_of(stream, 2)
    stream.cue(None, RAIN)
    latents_of(stream, 8)
    assert work[-4:] == early
    assert stream._cues.state_dict()["cues"] == []
