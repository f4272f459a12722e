"""The endless queue: levels, equality with ordinary sampling, resuming, context, constant memory."""

from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from infer.fifo import Fifo, FifoConfig
from infer.fifo.partition import PartitionedNetwork
from infer.samplers import Method, draw_noise, make_generators, sample
from models.diffusion import alpha_sigma
from models.schedule import Focus, queue_levels, time_grid

CHANNELS = 3


class LocalDenoiser:
    """A fixed random network over time: every frame's v depends on its neighbours, on its t and on its place."""

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.randn(CHANNELS, CHANNELS + 1, 5, generator=generator) / 4
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t[0].clone())
        with_t = torch.cat((x, t.unsqueeze(1)), dim=1)
        return torch.tanh(torch.nn.functional.conv1d(with_t, self.weight, padding=2))


def gaussian(x: Tensor, t: Tensor) -> Tensor:
    """Exact v for independent unit-variance latents around 0.5."""
    alpha, sigma = (value.unsqueeze(-2) for value in alpha_sigma(t))
    denoised = 0.5 + alpha * (x - alpha * 0.5)
    return alpha * (sigma * (x - alpha * 0.5)) - sigma * denoised


def make(config: FifoConfig, denoiser=None, seed: int = 0, batch: int = 1) -> Fifo:
    return Fifo(denoiser or LocalDenoiser(), config, channels=CHANNELS, generators=make_generators(seed, batch))


SMALL = FifoConfig(context=4, chunk=2, num_chunks=3, micro_steps=2)


@pytest.mark.parametrize(("method", "eta"), [("dpmpp_2m", 0.0), ("ddim", 0.0), ("ddim", 0.7), ("dpmpp_2m_sde", 1.0)])
@pytest.mark.parametrize("focus", ["equal", "last"])
def test_one_chunk_over_the_window_is_the_ordinary_sampler_bit_for_bit(method: Method, eta: float, focus: Focus):
    config = FifoConfig(
        context=0, chunk=24, num_chunks=1, micro_steps=7, sampler=method, eta=eta, focus=focus, factor=3.0
    )
    chunk = next(make(config, seed=4, batch=2))
    generators = make_generators(4, 2)
    x = draw_noise(generators, CHANNELS, 24, torch.device("cpu"))
    expected = sample(LocalDenoiser(), x, time_grid(7, focus, 3.0), method, eta, generators)
    assert torch.equal(chunk, expected)


def test_levels_that_the_network_sees():
    denoiser = LocalDenoiser()
    config = replace(SMALL, focus="last", context_noise=0.02)
    stream = make(config, denoiser)
    for _ in range(4):
        next(stream)
    grid = time_grid(config.num_steps, "last", config.factor)
    expected = queue_levels(grid, 3, 2, 4, 0.02)
    for m in range(2):
        assert torch.equal(denoiser.times[-2 + m], expected[m])
    # growing in: one, two, three chunks, then the context fills
    assert [len(t) for t in denoiser.times[::2]] == [2, 4, 6, 8, 10, 10]
    assert torch.equal(denoiser.times[0], torch.ones(2))
    assert torch.equal(denoiser.times[2], expected[0][-4:])


def test_full_preroll_shows_pure_noise_behind_the_chunks_under_way():
    recorder = ContextRecorder()
    stream = make(replace(SMALL, preroll="full"), recorder)
    next(stream)
    grid = time_grid(6).tolist()
    assert [t.tolist() for t in recorder.times[:3:2]] == [
        [1.0] * 6,
        [grid[4]] * 2 + [1.0] * 4,
    ]
    assert recorder.times[4].tolist() == [grid[2]] * 2 + [grid[4]] * 2 + [1.0] * 2
    waiting = recorder.windows[0][..., 4:]
    assert all(torch.equal(window[..., 4:], waiting) for window in recorder.windows[:5])


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize(("chunk", "num_chunks", "micro_steps"), [(1, 12, 1), (2, 6, 2), (4, 3, 4)])
def test_frames_take_the_ordinary_samplers_path(method: Method, chunk: int, num_chunks: int, micro_steps: int):
    """With a denoiser that looks at each frame alone, the queue only reorders the same computation."""
    config = FifoConfig(context=3, chunk=chunk, num_chunks=num_chunks, micro_steps=micro_steps, sampler=method)
    stream = torch.cat(list(islice(make(config, gaussian), 24 // chunk)), dim=-1)
    generators = make_generators(0, 1)
    noise = torch.cat([draw_noise(generators, CHANNELS, chunk, torch.device("cpu")) for _ in range(24 // chunk)], -1)
    assert torch.allclose(stream, sample(gaussian, noise, time_grid(12), method), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, context_mode="frozen"),
        replace(SMALL, context_mode="none", preroll="full"),
        replace(SMALL, sampler="dpmpp_2m_sde", eta=1.0, context_noise=0.05),
        replace(SMALL, context=1, chunk=3),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(config: FifoConfig):
    whole = list(islice(make(config, batch=2), 7))
    first = make(config, batch=2)
    start = list(islice(first, 3))
    second = make(config, seed=99, batch=2)
    second.load_state_dict(first.state_dict())
    for expected, got in zip(whole, start + list(islice(second, 4)), strict=True):
        assert torch.equal(expected, got)


def test_state_of_another_stream_is_refused():
    state = make(SMALL).state_dict()
    with pytest.raises(ValueError, match="configuration"):
        make(replace(SMALL, chunk=4)).load_state_dict(state)
    with pytest.raises(ValueError, match="shape"):
        make(SMALL, batch=2).load_state_dict(state)


class ContextRecorder(LocalDenoiser):
    """Keeps what the network is shown in front of the queue."""

    def __init__(self):
        super().__init__()
        self.windows: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.windows.append(x.clone())
        return super().__call__(x, t)


def test_sliding_context_is_the_last_emitted_frames():
    recorder = ContextRecorder()
    emitted = torch.cat(list(islice(make(SMALL, recorder), 6)), dim=-1)
    assert torch.equal(recorder.windows[-1][..., :4], emitted[..., 6:10])  # those before the last emitted chunk


def test_frozen_context_is_the_first_emitted_frames():
    recorder = ContextRecorder()
    emitted = torch.cat(list(islice(make(replace(SMALL, context_mode="frozen"), recorder), 6)), dim=-1)
    assert torch.equal(recorder.windows[-1][..., :4], emitted[..., :4])


def test_no_context():
    recorder = ContextRecorder()
    stream = make(replace(SMALL, context_mode="none"), recorder)
    for _ in range(4):
        next(stream)
    assert max(window.shape[-1] for window in recorder.windows) == 6


def test_context_noise_has_the_level_it_is_announced_with():
    config = FifoConfig(context=4000, chunk=4000, num_chunks=1, micro_steps=1, context_noise=0.3)
    recorder = ContextRecorder()
    stream = make(config, recorder)
    emitted = next(stream)
    next(stream)
    alpha, sigma = (value.item() for value in alpha_sigma(torch.tensor(0.3)))
    added = recorder.windows[-1][..., :4000] - alpha * emitted
    assert abs(added.std().item() - sigma) < 0.02
    assert abs(recorder.times[-1][0].item() - 0.3) < 1e-6


def test_continuing_from_given_latents():
    recorder = ContextRecorder()
    stream = make(SMALL, recorder)
    given = torch.randn(1, CHANNELS, 9, generator=torch.Generator().manual_seed(1))
    stream.continue_from(given)
    emitted = next(stream)
    assert [window.shape[-1] for window in recorder.windows] == [6, 6, 8, 8, 10, 10]
    assert all(torch.equal(window[..., :4], given[..., -4:]) for window in recorder.windows)
    assert [t[3].item() for t in recorder.times] == [0.0] * 6
    next(stream)
    assert torch.equal(recorder.windows[-1][..., :4], torch.cat((given[..., -2:], emitted), dim=-1))
    with pytest.raises(ValueError, match="before the first chunk"):
        stream.continue_from(given)


def test_batched_streams_are_independent_of_each_other():
    together = torch.cat(list(islice(make(SMALL, seed=3, batch=3), 4)), dim=-1)
    for k in range(3):
        alone = torch.cat(list(islice(make(SMALL, seed=3 + k), 4)), dim=-1)
        assert torch.allclose(alone[0], together[k], atol=1e-6)


def test_changed_denoiser_starts_at_first_order():
    stream = make(SMALL)
    for _ in range(3):
        next(stream)
    other = make(SMALL)
    other.load_state_dict(stream.state_dict())
    other._denoised.fill_(1e3)  # a first-order step does not read it
    for changed in (stream, other):
        changed.denoiser = gaussian
        changed.forget_history()
    assert torch.allclose(next(stream), next(other), atol=1e-3)


def test_memory_does_not_grow():
    stream = make(replace(SMALL, context_noise=0.05))

    def held() -> int:
        return sum(value.nbytes for value in stream.state_dict()["tensors"])

    next(stream)
    before, pointers = held(), (stream._window.data_ptr(), stream._denoised.data_ptr())
    for _ in range(50):
        next(stream)
    assert held() == before
    assert (stream._window.data_ptr(), stream._denoised.data_ptr()) == pointers


def test_emitted_chunks_are_not_touched_later():
    stream = make(SMALL)
    first = next(stream)
    kept = first.clone()
    for _ in range(3):
        next(stream)
    assert torch.equal(first, kept)


def test_bad_configurations_are_refused():
    for change in ({"chunk": 0}, {"num_chunks": 0}, {"micro_steps": 0}, {"context": -1}, {"context_noise": 1.0}):
        with pytest.raises(ValueError, match="got"):
            replace(SMALL, **change)
    with pytest.raises(ValueError, match="adds no noise"):
        replace(SMALL, eta=0.5)


def test_an_ending_stream_runs_empty_and_takes_no_noise_beyond_its_end():
    recorder = ContextRecorder()
    stream = make(SMALL, recorder)
    stream.end_after(5)
    emitted = list(stream)
    assert len(emitted) == 5
    # rounds: three to grow in, then one each; the queue holds 3, 3, 3, 2, 1 chunks at the five emissions
    in_queue = [
        window.shape[-1] - context for window, context in zip(recorder.windows[5::2], (0, 2, 4, 4, 4), strict=True)
    ]
    assert in_queue == [6, 6, 6, 4, 2]
    whole = list(islice(make(SMALL), 5))
    assert torch.equal(torch.cat(emitted[:3], -1), torch.cat(whole[:3], -1))
    with pytest.raises(ValueError, match="cannot end after 2"):
        stream.end_after(2)


def test_a_stream_shorter_than_its_queue():
    config = replace(SMALL, sampler="ddim", preroll="full")
    stream = make(config, gaussian)
    stream.end_after(2)
    short = torch.cat(list(stream), -1)
    assert torch.equal(short, torch.cat(list(islice(make(config, gaussian), 2)), -1))


def test_sink_frames_stay_and_the_rest_slides():
    recorder = ContextRecorder()
    emitted = torch.cat(list(islice(make(replace(SMALL, context=5, sink=2), recorder), 7)), dim=-1)
    shown = recorder.windows[-1][..., :5]
    assert torch.equal(shown[..., :2], emitted[..., :2])
    assert torch.equal(shown[..., 2:], emitted[..., 9:12])
    with pytest.raises(ValueError, match="at most the 4 frames"):
        replace(SMALL, sink=5)


def test_starting_from_a_clip_noises_it_to_the_queues_levels_and_plays_it():
    config = replace(SMALL, chunk=400)
    clip = torch.linspace(-2, 2, CHANNELS * 1200).reshape(1, CHANNELS, 1200)
    recorder = ContextRecorder()
    stream = make(config, recorder)
    stream.start_from(clip)
    next(stream)
    x, t = recorder.windows[0], recorder.times[0]
    assert torch.equal(t, config.grid()[[2, 4, 6]].repeat_interleave(400))
    alpha, sigma = alpha_sigma(t)
    noise = (x - alpha * clip) / sigma
    assert abs(noise.std().item() - 1) < 0.03
    assert abs(noise.mean().item()) < 0.03

    def knows_the_clip(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value[:, None] for value in alpha_sigma(t))
        return (alpha * x - clip[..., : x.shape[-1]]) / sigma

    again = make(replace(config, context=0), knows_the_clip)
    again.start_from(clip)
    assert torch.allclose(next(again), clip[..., :400], atol=1e-5)
    with pytest.raises(ValueError, match="before the first chunk"):
        again.start_from(clip)
    with pytest.raises(ValueError, match="must have 1200 frames"):
        make(config).start_from(clip[..., :100])


def test_renoising_brings_context_and_noisy_slots_to_known_levels():
    config = FifoConfig(context=3000, chunk=1000, num_chunks=4, micro_steps=1)
    recorder = ContextRecorder()
    stream = make(config, recorder)
    for _ in range(4):
        next(stream)
    kept = stream.state_dict()["tensors"][0].clone()
    stream.renoise(0.5)
    window, denoised, context_t = stream.state_dict()["tensors"]
    assert (context_t == 0.5).all()
    alpha, sigma = alpha_sigma(torch.tensor(0.5))
    assert abs(((window - alpha * kept)[..., :3000] / sigma).std().item() - 1) < 0.05
    levels = config.grid()[:4].repeat_interleave(1000)  # the front chunk has left at 0
    clean = levels < 0.5
    assert torch.equal(window[..., 3000:][..., clean], kept[..., 3000:][..., clean])
    alpha, sigma = alpha_sigma(levels[~clean])
    fresh = (window[..., 3000:][..., ~clean] - alpha * denoised[..., ~clean]) / sigma
    assert abs(fresh.std().item() - 1) < 0.05
    assert not torch.equal(window[..., 3000:][..., ~clean], kept[..., 3000:][..., ~clean])
    next(stream)
    assert recorder.times[-1][:3000].tolist() == [0.5] * 2000 + [0.0] * 1000  # it slides out again


@pytest.mark.parametrize("curve", ["warp", "skip"])
def test_the_queue_passes_its_own_grid(curve):
    config = replace(SMALL, num_chunks=6, micro_steps=3, focus="last", factor=2.0, curve=curve)
    denoiser = LocalDenoiser()
    list(islice(make(config, denoiser), 3))
    grid = config.grid()
    assert len(grid) == 19
    shown = torch.cat(denoiser.times[-3:]).unique()
    assert torch.equal(shown[shown > 0], grid[1:])


def gathered(x: Tensor, t: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
    """A network that says how many frames it was shown, and where each stands."""
    del t, context, context_mask
    return torch.arange(x.shape[-1]).expand_as(x) + 1000 * x.shape[-1]


@pytest.mark.parametrize(("lookahead", "expected"), [(False, [0, 1, 2, 3] * 4), (True, [0, 1] + [2, 3] * 7)])
def test_partitions_cover_the_queue_once(lookahead: bool, expected: list[int]):
    calls = []

    def network(*arguments) -> Tensor:
        calls.append(arguments[1][0].tolist())
        return gathered(*arguments)

    x = torch.zeros(1, CHANNELS, 16)
    t = torch.arange(16.0)[None]
    v = PartitionedNetwork(network, 4, lookahead=lookahead)(x, t, torch.zeros(1, 1, 1), None)
    assert (v[0, 0] % 1000).tolist() == expected
    assert len(calls) == (7 if lookahead else 4)  # 2 n - 1, and one more with the f/2 frames of context
    assert calls[1] == ([2, 3, 4, 5] if lookahead else [4, 5, 6, 7])


def test_lookahead_predicts_every_queued_frame_behind_cleaner_ones():
    """With f/2 finished frames in front, 2 n windows, of each the noisier half: the paper's algorithm 3."""
    windows = []

    def network(x: Tensor, t: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        windows.append(t[0])
        return gathered(x, t, context, context_mask)

    partitioned = PartitionedNetwork(network, 4, lookahead=True)
    config = FifoConfig(context=2, chunk=1, num_chunks=8, micro_steps=1, sampler="ddim")
    nothing = torch.zeros(1, 1, 1)
    stream = make(config, lambda x, t: 0 * partitioned(x, t, nothing, None))
    list(islice(stream, 4))
    last = windows[-4:]
    assert [len(t) for t in last] == [4] * 4
    assert last[0].tolist()[:2] == [0, 0]
    for t, following in pairwise(last):
        assert torch.equal(t[2:], following[:2])
        assert t.max() - t.min() <= 4 / 8


def test_partition_errors():
    for frames, lookahead in ((0, False), (5, True)):
        with pytest.raises(ValueError, match=f"got {frames}"):
            PartitionedNetwork(gathered, frames, lookahead=lookahead)
