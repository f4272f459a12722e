"""Guards against drift: nothing inside the dead zone, a pull beyond it, noise where the sound stands still."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from infer.fifo import Fifo, FifoConfig
from infer.fifo.guards import Anchor, DriftGuard, GuardConfig
from infer.samplers import make_generators
from models.diffusion import alpha_sigma, velocity_from_denoised

CHANNELS, RATE = 4, 40.0
PULL = GuardConfig(pull=0.5, anchor="training", mean_zone=1.0, deviation_zone=1.5, seconds=2.0)


def noise(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, CHANNELS, frames, generator=torch.Generator().manual_seed(seed))


def towards(target: Tensor):
    """A denoiser that is sure of the clean latents."""
    return lambda x, t: velocity_from_denoised(x, target.expand_as(x), t.clamp(min=1e-3))


def estimate(guard: DriftGuard, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = (value[:, None] for value in alpha_sigma(t))
    return alpha * x - sigma * guard(x, t)


def test_inside_the_dead_zone_nothing_changes():
    denoiser = towards(noise(40))
    guard = DriftGuard(denoiser, PULL, RATE)
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    for seed in range(10):
        guard.observe(noise(40, seed) + 0.5)
        assert torch.equal(guard(x, t), denoiser(x, t))


def test_beyond_it_estimates_are_pulled_back_by_a_share_of_the_excess():
    guard = DriftGuard(towards(noise(40)), PULL, RATE)
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    for seed in range(20):
        guard.observe(3 * noise(40, seed) + 2.0)
    pulled = estimate(guard, x, t)
    # deviation 3 to 1.5 and mean 2 to 1, half of the way: factor 0.75, and a shift that takes 2 to 1.5
    assert torch.allclose(pulled, 0.75 * (noise(40) - 2) + 1.5, atol=0.15)


def test_drift_of_a_stream_is_bounded():
    """Every chunk would be a little higher than what came before it."""

    def rising(x: Tensor, t: Tensor) -> Tensor:
        before = x[..., :8].mean() if (t == 0).any() else torch.tensor(0.0)
        return towards(before + 0.1)(x, t)

    config = FifoConfig(context=8, chunk=8, num_chunks=3, micro_steps=2)

    def level_after(guards: GuardConfig) -> float:
        guard = DriftGuard(rising, guards, RATE)
        means = []
        for chunk in islice(Fifo(guard, config, channels=CHANNELS, generators=make_generators(0, 1)), 120):
            guard.observe(chunk)
            means.append(float(chunk.mean()))
        return means[-1]

    free, guarded = level_after(GuardConfig()), level_after(PULL)
    assert free > 4
    assert 1 < guarded < 2


def test_a_stream_is_held_to_its_own_beginning():
    own = GuardConfig(pull=1.0, beginning_seconds=4.0, mean_zone=0.5, seconds=2.0)
    guard = DriftGuard(towards(noise(40)), own, RATE)
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
    own = GuardConfig(pull=1.0, beginning_seconds=2.0, mean_zone=0.5, seconds=1.0)
    guard = DriftGuard(towards(noise(40)), own, RATE)
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
    guard = DriftGuard(towards(noise(40)), PULL, RATE)
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    guard.hold()  # nothing to hold yet
    for seed in range(20):
        guard.observe(3 * noise(40, seed) + 2.0)
    pulled = estimate(guard, x, t)
    guard.hold()
    for seed in range(20):
        guard.observe(0.1 * noise(40, seed))  # it fades, and is not pulled up
    again = DriftGuard(towards(noise(40)), PULL, RATE)
    again.load_state_dict(guard.state_dict())
    for held in (guard, again):
        assert torch.equal(estimate(held, x, t), pulled)
    guard.forget(after_seconds=0.0)
    assert not torch.equal(estimate(guard, x, t), pulled)


def test_standing_still_is_noticed_once_in_a_while():
    config = GuardConfig(renoise=True, renoise_every_seconds=4.0, seconds=2.0)
    guard = DriftGuard(towards(noise(40)), config, RATE)
    assert not any(guard.observe(0.3 * noise(40, seed)) for seed in range(10))
    still = [guard.observe(torch.full((1, CHANNELS, 40), 2.0)) for _ in range(20)]  # a second each
    assert still[0] is False
    assert 2 <= sum(still) <= 4
    off = DriftGuard(towards(noise(40)), replace(config, renoise=False), RATE)
    assert not any(off.observe(torch.zeros(1, CHANNELS, 40)) for _ in range(20))


@pytest.mark.parametrize("anchor", ["beginning", "training"])
def test_state_comes_back(anchor: Anchor):
    config = replace(PULL, anchor=anchor, beginning_seconds=2.0)
    first = DriftGuard(towards(noise(40)), config, RATE)
    for seed in range(5):
        first.observe(4 * noise(40, seed) + seed)
    second = DriftGuard(towards(noise(40)), config, RATE)
    second.load_state_dict(first.state_dict())
    x, t = noise(40, 1), torch.linspace(0.1, 1, 40)[None]
    assert torch.equal(first(x, t), second(x, t))


def test_bad_values():
    for name, value in (("pull", 1.5), ("renoise_t", -0.1), ("seconds", 0.0), ("deviation_zone", -1.0)):
        with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
            replace(GuardConfig(), **{name: value})
