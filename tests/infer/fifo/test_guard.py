"""The guard against drift: nothing inside the dead zone, a pull beyond it, each stream of a batch by itself."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from infer.fifo import Fifo
from infer.fifo.guard import DriftGuard, GuardConfig, GuardedDenoiser
from infer.samplers import Denoiser, make_generators
from models.diffusion import alpha_sigma
from models.queue import QueueConfig
from models.schedule import time_grid

CHANNELS, RATE = 4, 40.0
PULL = GuardConfig(pull=0.5, beginning_seconds=1.0, mean_zone=1.0, deviation_zone=1.5, average_seconds=2.0)


def noise(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, CHANNELS, frames, generator=torch.Generator().manual_seed(seed))


def towards(target: Tensor):
    """A denoiser that is sure of the clean latents."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value[:, None] for value in alpha_sigma(t.clamp(min=1e-3)))
        return (alpha * x - target.expand_as(x)) / sigma

    return denoise


def guarded(guard: DriftGuard, denoiser: Denoiser | None = None) -> GuardedDenoiser:
    return GuardedDenoiser(denoiser or towards(noise(40)), [guard])


def begun(config: GuardConfig = PULL) -> DriftGuard:
    """A guard after a beginning with mean 0 and deviation 1."""
    guard = DriftGuard(config, RATE)
    for seed in range(100, 104):
        guard.observe(noise(40, seed))
    return guard


def estimate(guard: DriftGuard, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = (value[:, None] for value in alpha_sigma(t))
    return alpha * x - sigma * guarded(guard)(x, t)


def test_inside_the_dead_zone_nothing_changes():
    denoiser, guard = towards(noise(40)), begun()
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    for seed in range(10):
        guard.observe(noise(40, seed) + 0.5)
        # only the deviation's own fluctuation could be scaled, and its zone is wide
        assert torch.allclose(guarded(guard, denoiser)(x, t), denoiser(x, t), atol=1e-6)


def test_beyond_it_estimates_are_pulled_back_by_a_share_of_the_excess():
    guard = begun()
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    for seed in range(20):
        guard.observe(3 * noise(40, seed) + 2.0)
    pulled = estimate(guard, x, t)
    # deviation 3 to 1.5 and mean 2 to 1, half of the way: factor 0.75, and a shift that takes 2 to 1.5
    assert torch.allclose(pulled, 0.75 * (noise(40) - 2) + 1.5, atol=0.3)


def test_each_stream_of_a_batch_has_its_own_guard():
    drifted, steady = begun(), begun()
    for seed in range(20):
        drifted.observe(noise(40, seed) + 4.0)
        steady.observe(noise(40, seed))
    denoiser = towards(noise(40))
    x, t = noise(40, 1).repeat(2, 1, 1), torch.linspace(0.1, 1, 40).repeat(2, 1)
    together = GuardedDenoiser(denoiser, [drifted, steady])(x, t)
    assert torch.equal(together[:1], guarded(drifted, denoiser)(x[:1], t[:1]))
    assert torch.equal(together[1:], denoiser(x[1:], t[1:]))
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_drift_of_a_stream_is_bounded():
    """Every chunk would be a little higher than what came before it."""

    def rising(x: Tensor, t: Tensor) -> Tensor:
        before = x[..., :8].mean() if (t == 0).any() else torch.tensor(0.0)
        alpha, _ = alpha_sigma(t)
        return towards(before + 0.1 + 0.3 * alpha[:, None] * noise(x.shape[-1], 3))(x, t)

    queue = QueueConfig(context_frames=8, chunk_frames=8, num_chunks=3, steps_per_shift=2)

    def level_after(config: GuardConfig) -> float:
        guard = DriftGuard(config, RATE)
        fifo = Fifo(guarded(guard, rising), queue, time_grid(6), channels=CHANNELS, generators=make_generators(0, 1))
        means = []
        for chunk in islice(fifo, 120):
            guard.observe(chunk)
            means.append(float(chunk.mean()))
        return means[-1]

    free, held = level_after(GuardConfig(pull=0.0)), level_after(replace(PULL, pull=1.0))
    assert free > 4
    assert held < free / 2


def test_a_stream_is_held_to_its_own_beginning():
    own = GuardConfig(pull=1.0, beginning_seconds=4.0, mean_zone=0.5, average_seconds=2.0)
    guard = DriftGuard(own, RATE)
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    free = estimate(guard, x, t)
    for seed in range(8):  # a second each, at a place of its own
        guard.observe(noise(40, seed) + 3.0)
        assert torch.allclose(estimate(guard, x, t), free, atol=1e-5)
    for seed in range(20):
        guard.observe(noise(40, seed) + 1.0)
    # it has fallen by 2 standard deviations, and half of one is free
    assert torch.allclose(estimate(guard, x, t), free + 1.5, atol=0.35)


def test_a_new_text_has_a_new_beginning():
    own = GuardConfig(pull=1.0, beginning_seconds=2.0, mean_zone=0.5, average_seconds=1.0)
    guard = DriftGuard(own, RATE)
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    free = estimate(guard, x, t)
    for seed in range(4):
        guard.observe(noise(40, seed))
    guard.forget(after_seconds=3.0)
    for seed in range(3):
        guard.observe(noise(40, seed) + 10.0)  # on the way to the new one: not looked at
    for seed in range(8):
        guard.observe(noise(40, seed) + 5.0)
        assert torch.allclose(estimate(guard, x, t), free, atol=1e-5)


def test_held_it_goes_on_as_it_was():
    guard = begun()
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    DriftGuard(PULL, RATE).hold()  # nothing to hold yet
    for seed in range(20):
        guard.observe(3 * noise(40, seed) + 2.0)
    pulled = estimate(guard, x, t)
    guard.hold()
    for seed in range(20):
        guard.observe(0.1 * noise(40, seed))  # it fades, and is not pulled up
    again = DriftGuard(PULL, RATE)
    again.load_state_dict(guard.state_dict())
    for held in (guard, again):
        assert torch.equal(estimate(held, x, t), pulled)
    guard.forget(after_seconds=0.0)
    assert not torch.equal(estimate(guard, x, t), pulled)


def test_state_comes_back():
    first = begun(replace(PULL, beginning_seconds=2.0))
    for seed in range(5):
        first.observe(4 * noise(40, seed) + seed)
    second = DriftGuard(replace(PULL, beginning_seconds=2.0), RATE)
    second.load_state_dict(first.state_dict())
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    assert torch.equal(guarded(first)(x, t), guarded(second)(x, t))


def test_bad_values():
    for name, value in (("pull", 1.5), ("pull", -0.1), ("average_seconds", 0.0), ("deviation_zone", -1.0)):
        with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
            replace(GuardConfig(), **{name: value})
    with pytest.raises(ValueError, match="mean_zone"):
        GuardConfig(mean_zone=float("nan"))
