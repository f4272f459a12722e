"""The stream as one object: lengths and endings, cues in the sound, the measured delay, batches, the cost."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.decoding import Decoding
from infer.fifo import EndlessStream, Fifo, QueueOptions, StreamConfig
from infer.fifo.config import check_queue, trained_queue_notice
from infer.fifo.cues import CueMode
from infer.fifo.guard import DriftGuard, GuardConfig, GuardedDenoiser
from infer.fifo.methods import Method
from infer.fifo.timing import StreamTiming, Timeline
from infer.guidance import GuidanceConfig, prompt_denoiser
from infer.samplers import SamplingConfig, make_generators
from models.diffusion import alpha_sigma
from models.queue import QueueConfig
from models.text_to_audio import Conditioning, TextToAudio

RAIN, CLOCK = "heavy rain", "a clock ticks"
RATE = 44_100 / 1024
QUEUE = QueueOptions(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1)
SHAPE = QUEUE.of(QueueConfig())
CONFIG = StreamConfig(queue=QUEUE, guidance=GuidanceConfig(scale=2.0, rescale=0.0))
METHODS: list[Method] = ["fifo", "infinite-audio", "fifo-diffusion"]


@pytest.fixture
def model(tiny_model: TextToAudio, monkeypatch: pytest.MonkeyPatch) -> TextToAudio:
    """The tiny model with a short training window."""
    monkeypatch.setattr(tiny_model, "config", replace(tiny_model.config, window_frames=24))
    return tiny_model


def latents_of(stream: EndlessStream, num_chunks: int) -> Tensor:
    return torch.cat([stream.next_latents() for _ in range(num_chunks)], dim=-1)


def test_it_is_the_queue_guided_and_decoded(model: TextToAudio):
    config = replace(CONFIG, guidance=GuidanceConfig(scale=3.0))
    stream = EndlessStream(model, RAIN, config)
    got = stream.read(0.8)
    position = Timeline.of(config.timing, model, SHAPE.window_frames).at(0.0)
    denoiser = prompt_denoiser(model, [RAIN], config.guidance, [position])
    grid = config.sampling.grid(SHAPE.num_steps)
    queue = Fifo(denoiser, SHAPE, grid, channels=4, generators=make_generators(0, 1))
    decoding = Decoding(model)
    pieces = [decoding.push(chunk) for chunk in islice(queue, 15)]
    expected = torch.cat([*pieces, decoding.finish()], dim=-1)
    assert got.shape == (1, 2, 35_280)
    assert stream.seconds == 0.8
    assert torch.allclose(got, expected[..., :35_280], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_takes_cues_and_ends_at_its_length(model: TextToAudio, method: Method):
    config = replace(CONFIG, method=method)
    stream = EndlessStream(model, RAIN, replace(config, seconds=1.5))
    stream.cue(0.8, CLOCK)
    audio = torch.cat(list(stream), dim=-1)
    assert audio.shape == (1, 2, 66_150)
    assert audio.abs().max() <= 1
    assert torch.isfinite(audio).all()
    assert audio[..., -1].abs().max() == 0
    assert next(stream, None) is None
    plain = EndlessStream(model, RAIN, config).read(1.5)
    assert not torch.allclose(plain[..., 44_100:], audio[..., 44_100:], atol=1e-3)
    assert not torch.equal(plain, audio)  # the text reaches back as far as the network and the decoder look ahead


def test_a_batch_is_its_streams(model: TextToAudio):
    """Prompts, seeds, cues and guards are each stream's own."""
    guard = GuardConfig(beginning_seconds=0.1, mean_zone=0.01, deviation_zone=0.5, average_seconds=0.2)
    config = replace(CONFIG, guard=guard)
    prompts, seeds = [RAIN, CLOCK, RAIN], [3, 0, 9]
    together = EndlessStream(model, prompts, config, seeds=seeds)
    together.cue(0.6, "wind", "switch", stream=1)
    together.cue(0.9, "birdsong", "glide", 0.4)
    pieces = torch.cat([piece for _, piece in zip(range(14), together, strict=False)], dim=-1)
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = EndlessStream(model, prompt, config, seeds=seed)
        if index == 1:
            alone.cue(0.6, "wind", "switch")
        alone.cue(0.9, "birdsong", "glide", 0.4)
        expected = torch.cat([piece for _, piece in zip(range(14), alone, strict=False)], dim=-1)
        assert torch.allclose(pieces[index : index + 1], expected, atol=1e-3), index
    assert not torch.allclose(pieces[0], pieces[2], atol=1e-2)
    assert EndlessStream(model, [RAIN] * 2, config, seeds=5)._fifo.generators[1].initial_seed() == 6


def test_a_blend_of_one_prompt_is_the_prompt(model: TextToAudio):
    plain = latents_of(EndlessStream(model, RAIN, CONFIG), 6)
    assert torch.equal(latents_of(EndlessStream(model, {RAIN: 0.7}, CONFIG), 6), plain)
    assert torch.equal(latents_of(EndlessStream(model, {RAIN: 1.0, CLOCK: 0.0}, CONFIG), 6), plain)
    assert not torch.allclose(latents_of(EndlessStream(model, {RAIN: 1.0, CLOCK: 1.0}, CONFIG), 6), plain, atol=1e-3)


def test_reading_in_pieces_gives_what_reading_at_once_gives(model: TextToAudio):
    """The fade at the end is applied once, however the sound is asked for."""
    config = replace(CONFIG, seconds=1.0)
    once = EndlessStream(model, RAIN, config).read(1.0)
    stream = EndlessStream(model, RAIN, config)
    pieces = torch.cat([stream.read(0.01) for _ in range(100)], dim=-1)
    assert torch.equal(once, pieces)
    assert once[..., -1].abs().max() == 0
    assert stream.read(0.5).shape[-1] == 0


def test_an_end_that_is_asked_for_later(model: TextToAudio):
    stream = EndlessStream(model, RAIN, CONFIG)
    start = stream.read(0.3)
    stream.end_in(0.4)
    whole = torch.cat((start, *stream), dim=-1)
    assert whole.shape[-1] == 30_870
    free = EndlessStream(model, RAIN, CONFIG).read(0.7)
    assert torch.equal(whole[..., :-882], free[..., :-882])
    assert whole[..., -1].abs().max() == 0
    ending = EndlessStream(model, RAIN, replace(CONFIG, seconds=0.5))
    ending.end_in(9.0)  # never later than it would
    assert torch.cat(list(ending), dim=-1).shape[-1] == 22_050


def telling_the_text(latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """In place of the network: sure that the latents are the mean of the text's tokens, whatever is around them."""
    weight = conditioning.context_mask[:, :, None].float()
    level = (conditioning.context * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))  # (rows,)
    alpha, sigma = (value[:, None] for value in alpha_sigma(t.clamp(min=1e-3)))
    return (alpha * latents - level[:, None, None]) / sigma


@pytest.mark.parametrize(("mode", "seconds"), [("bind", 1.0), ("switch", 1.0), ("glide", 1.0), ("bind", 0.45)])
def test_measured_delay_of_a_cue_is_what_is_said(
    model: TextToAudio, monkeypatch: pytest.MonkeyPatch, mode: CueMode, seconds: float
):
    """Latents show the text that each frame was made from: before the announced time the old, from its end the new."""
    monkeypatch.setattr(model, "network", telling_the_text)
    config = replace(
        CONFIG,
        guidance=GuidanceConfig(scale=1.0),
        queue=replace(QUEUE, steps_per_shift=2),
        sampling=SamplingConfig(sampler="ddim"),
    )
    levels = {text: float(latents_of(EndlessStream(model, text, config), 1).mean()) for text in (RAIN, CLOCK)}
    stream = EndlessStream(model, RAIN, config)
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


def test_the_guard_acts_on_the_models_own_queue_and_steady_timing(model: TextToAudio):
    def is_guarded(**changes: Any) -> bool:
        return isinstance(EndlessStream(model, RAIN, replace(CONFIG, **changes))._fifo.denoiser, GuardedDenoiser)

    assert is_guarded()
    assert not is_guarded(method="infinite-audio")
    assert not is_guarded(timing=StreamTiming(mode="true"), seconds=5.0)


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
    stream = EndlessStream(model, RAIN, replace(CONFIG, seconds=3.0, timing=StreamTiming(ending=True)))
    monkeypatch.setattr(DriftGuard, "hold", lambda _: starts.append((stream._fifo.position - 8) / RATE))
    list(stream)
    assert 0 <= starts[0] - (3.0 - 2 * SHAPE.window_frames / RATE) < SHAPE.chunk_frames / RATE


def test_cues_from_the_past_take_effect_as_soon_as_they_can(model: TextToAudio):
    stream = EndlessStream(model, RAIN, CONFIG)
    stream.read(0.6)
    effect = stream.cue(None, CLOCK, "switch")
    assert 0.6 <= effect.begins_seconds < 0.6 + 0.5
    assert effect.complete_seconds - effect.begins_seconds == pytest.approx(stream.lead_seconds)
    with pytest.raises(ValueError, match="prompt is empty"):
        stream.cue(3.0, " ")
    with pytest.raises(ValueError, match="glide_seconds"):
        stream.cue(3.0, CLOCK, "glide", -1.0)


@pytest.mark.parametrize("timing", [StreamTiming(ending=True), StreamTiming(mode="true", piece_seconds=10)])
def test_an_ending_is_played_by_the_model(model: TextToAudio, monkeypatch: pytest.MonkeyPatch, timing: StreamTiming):
    told: list[tuple] = []
    at = Timeline.at
    monkeypatch.setattr(Timeline, "at", lambda timeline, seconds: told.append(at(timeline, seconds)) or told[-1])
    shown = []
    stream = EndlessStream(model, RAIN, replace(CONFIG, seconds=1.2, timing=timing))
    network = model.network

    def recorder(latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        shown.append(latents.shape[-1])
        return network(latents, t, conditioning)

    stream._denoiser.network = recorder
    assert torch.cat(list(stream), dim=-1).shape == (1, 2, 52_920)
    assert told[-1][1] == pytest.approx(1.2)
    assert told[-1][0] == pytest.approx((13 * 4 - 4 - 8) / RATE)
    assert shown[-4:] == [24, 20, 16, 12]  # the queue runs empty behind the context


def test_the_guard_is_reached(model: TextToAudio):
    strong = GuardConfig(beginning_seconds=0.1, mean_zone=1e-3, deviation_zone=1e-3, average_seconds=0.1)
    plain = latents_of(EndlessStream(model, RAIN, CONFIG), 8)
    pulled = latents_of(EndlessStream(model, RAIN, replace(CONFIG, guard=strong)), 8)
    assert torch.isfinite(pulled).all()
    assert not torch.allclose(pulled, plain, atol=1e-3)


def test_what_is_left_out_of_the_queue_is_the_models_own(model: TextToAudio, monkeypatch: pytest.MonkeyPatch):
    own = QueueConfig(context_frames=6, chunk_frames=3, num_chunks=5, steps_per_shift=2)
    long = QueueConfig(context_frames=9, chunk_frames=6, num_chunks=5, steps_per_shift=2)
    monkeypatch.setattr(model, "config", replace(model.config, queues=(own, long)))
    assert EndlessStream(model, RAIN).queue == own
    config = StreamConfig(queue=QueueOptions(num_chunks=4))
    assert EndlessStream(model, RAIN, config).queue == replace(own, num_chunks=4)
    notice = trained_queue_notice(config, model)
    assert notice == ("the model was not trained for 6 + 4 x 3 frames, but for 6 + 5 x 3 frames and 9 + 5 x 6 frames")
    for trained in (QueueOptions(), QueueOptions(steps_per_shift=9), QueueOptions(chunk_frames=6, context_frames=9)):
        assert trained_queue_notice(StreamConfig(queue=trained), model) is None
    assert "infinite-audio" in (trained_queue_notice(StreamConfig(method="infinite-audio"), model) or "")


def test_queues_without_bounds_are_refused(model: TextToAudio):
    for queue, message in (
        (replace(SHAPE, num_chunks=1_000_000), r"window of 4000008 frames \(92880 s\) is more than 16 times"),
        (replace(SHAPE, steps_per_shift=100_000), "would take 400000 steps .* more than 10000"),
    ):
        with pytest.raises(ValueError, match=message):
            check_queue(queue, model)
    check_queue(SHAPE, model)


def test_bad_requests(model: TextToAudio):
    for changes, message in (
        ({"timing": StreamTiming(mode="true")}, "need the length"),
        ({"seconds": -1.0}, "above 0"),
        ({"sampling": SamplingConfig(focus="auto")}, "auto"),
    ):
        with pytest.raises(ValueError, match=message):
            EndlessStream(model, RAIN, replace(CONFIG, **changes))
    with pytest.raises(ValueError, match="prompt is empty"):
        EndlessStream(model, " ", CONFIG)
    with pytest.raises(ValueError, match="seed must lie"):
        EndlessStream(model, RAIN, CONFIG, seeds=-1)
    with pytest.raises(ValueError, match="a seed for each"):
        EndlessStream(model, [RAIN, CLOCK], CONFIG, seeds=[1])


def test_the_network_works_no_more_late_than_early(model: TextToAudio):
    """Calls, rows and frames per chunk are constant, also after many cues."""
    stream = EndlessStream(model, RAIN, CONFIG)
    work = []

    def network(latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        work.append((latents.shape, conditioning.context.shape))
        return model.network(latents, t, conditioning)

    stream._denoiser.network = network
    latents_of(stream, 8)
    early = work[-4:]
    for number in range(12):
        stream.cue(None, (RAIN, CLOCK)[number % 2])
        latents_of(stream, 2)
    stream.cue(None, RAIN)
    latents_of(stream, 8)
    assert work[-4:] == early
    assert stream._sheets[0].num_cues == 0
