"""The endless queue: levels, equality with ordinary sampling, resuming, context, constant memory."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from infer.fifo import Fifo
from infer.samplers import Sampler, draw_noise, make_generators, sample
from models.diffusion import alpha_sigma
from models.queue import QueueConfig, queue_times
from models.schedule import Focus, time_grid

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


def make(
    queue: QueueConfig, denoiser=None, seed: int = 0, batch: int = 1, grid: Tensor | None = None, **options
) -> Fifo:
    grid = time_grid(queue.num_steps) if grid is None else grid
    generators = make_generators(seed, batch)
    return Fifo(denoiser or LocalDenoiser(), queue, grid, channels=CHANNELS, generators=generators, **options)


def queue_of(context: int, chunk: int, num_chunks: int, steps_per_shift: int) -> QueueConfig:
    return QueueConfig(
        context_frames=context, chunk_frames=chunk, num_chunks=num_chunks, steps_per_shift=steps_per_shift
    )


SMALL = queue_of(4, 2, 3, 2)


@pytest.mark.parametrize(("method", "eta"), [("dpmpp_2m", 0.0), ("ddim", 0.0), ("ddim", 0.7), ("dpmpp_2m_sde", 1.0)])
@pytest.mark.parametrize("focus", ["equal", "last"])
def test_one_chunk_over_the_window_is_the_ordinary_sampler_bit_for_bit(method: Sampler, eta: float, focus: Focus):
    grid = time_grid(7, focus, 3.0)
    chunk = next(make(queue_of(0, 24, 1, 7), seed=4, batch=2, grid=grid, sampler=method, eta=eta))
    generators = make_generators(4, 2)
    x = draw_noise(generators, CHANNELS, 24, torch.device("cpu"))
    expected = sample(LocalDenoiser(), x, grid, method, eta, generators)
    assert torch.equal(chunk, expected)


def test_levels_that_the_network_sees():
    denoiser = LocalDenoiser()
    grid = time_grid(SMALL.num_steps, "last", 3.0)
    stream = make(SMALL, denoiser, grid=grid)
    for _ in range(4):
        next(stream)
    for call in range(2):
        expected = torch.cat((torch.zeros(4), queue_times(grid, SMALL, call)))
        assert torch.equal(denoiser.times[-2 + call], expected)
    # growing in: one, two, three chunks, then the context fills
    assert [len(t) for t in denoiser.times[::2]] == [2, 4, 6, 8, 10, 10]
    assert torch.equal(denoiser.times[0], torch.ones(2))


def test_a_grid_that_neither_starts_at_0_nor_ends_at_1():
    """A host's own noise schedule: the context stands at its cleanest level, noise enters at its noisiest."""
    denoiser = LocalDenoiser()
    grid = torch.linspace(0.02, 0.99, 7)
    list(islice(make(SMALL, denoiser, grid=grid), 4))
    assert torch.equal(denoiser.times[0], torch.full((2,), 0.99))
    assert torch.allclose(denoiser.times[-1][:4], torch.full((4,), 0.02))
    with pytest.raises(ValueError, match="must hold 7 times"):
        make(SMALL, grid=time_grid(5))


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize(("chunk", "num_chunks", "steps"), [(1, 12, 1), (2, 6, 2), (4, 3, 4)])
def test_frames_take_the_ordinary_samplers_path(method: Sampler, chunk: int, num_chunks: int, steps: int):
    """With a denoiser that looks at each frame alone, the queue only reorders the same computation."""
    fifo = make(queue_of(3, chunk, num_chunks, steps), gaussian, sampler=method)
    stream = torch.cat(list(islice(fifo, 24 // chunk)), dim=-1)
    generators = make_generators(0, 1)
    noise = torch.cat([draw_noise(generators, CHANNELS, chunk, torch.device("cpu")) for _ in range(24 // chunk)], -1)
    assert torch.allclose(stream, sample(gaussian, noise, time_grid(12), method), atol=1e-5)


@pytest.mark.parametrize(
    ("queue", "options"),
    [
        (SMALL, {}),
        (replace(SMALL, context_frames=0), {}),
        (SMALL, {"sampler": "dpmpp_2m_sde", "eta": 1.0}),
        (replace(SMALL, context_frames=1, chunk_frames=3), {}),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(queue: QueueConfig, options: dict):
    whole = list(islice(make(queue, batch=2, **options), 7))
    first = make(queue, batch=2, **options)
    start = list(islice(first, 3))
    second = make(queue, seed=99, batch=2, **options)
    second.load_state_dict(first.state_dict())
    for expected, got in zip(whole, start + list(islice(second, 4)), strict=True):
        assert torch.equal(expected, got)


def test_state_of_another_stream_is_refused():
    state = make(SMALL).state_dict()
    with pytest.raises(ValueError, match="queue"):
        make(replace(SMALL, chunk_frames=4)).load_state_dict(state)
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


def test_no_context():
    recorder = ContextRecorder()
    stream = make(replace(SMALL, context_frames=0), recorder)
    for _ in range(4):
        next(stream)
    assert max(window.shape[-1] for window in recorder.windows) == 6


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
    """A first-order step does not read the estimate before it; of one stream alone where one alone has changed."""
    stream = make(SMALL, batch=2)
    for _ in range(3):
        next(stream)
    state = stream.state_dict()
    wrong = state | {"denoised": torch.full_like(state["denoised"], 1e3)}
    chunks = []
    for before in (state, wrong):
        other = make(SMALL, gaussian, batch=2)
        other.load_state_dict(before)
        other.forget_history(1)
        chunks.append(next(other))
    assert torch.allclose(chunks[0][1], chunks[1][1], atol=1e-3)
    assert not torch.allclose(chunks[0][0], chunks[1][0], atol=1e-3)


def test_memory_does_not_grow():
    stream = make(SMALL)

    def held() -> int:
        return sum(stream.state_dict()[name].nbytes for name in ("window", "denoised"))

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
    stream = make(SMALL, gaussian, sampler="ddim")
    stream.end_after(2)
    short = torch.cat(list(stream), -1)
    assert torch.equal(short, torch.cat(list(islice(make(SMALL, gaussian, sampler="ddim"), 2)), -1))
