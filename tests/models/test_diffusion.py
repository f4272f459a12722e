"""The noise process: exact ends, inverse functions and round trips for every shape of t."""

import math

import pytest
import torch

from models.diffusion import (
    add_noise,
    alpha_sigma,
    broadcast_t,
    log_snr,
    t_from_log_snr,
    velocity,
)

SHAPES = [(), (3,), (3, 10), (1,), (1, 10), (3, 1)]


def draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 10, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 4, 10, generator=generator, dtype=torch.float64)
    return latents, noise, 0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)


def test_ends_are_exact():
    alpha, sigma = alpha_sigma(torch.tensor([0.0, 1.0]))
    assert alpha.tolist() == [1.0, 0.0]
    assert sigma.tolist() == [0.0, 1.0]
    assert log_snr(torch.tensor([0.0, 1.0])).tolist() == [math.inf, -math.inf]


def test_alpha_and_sigma_are_the_cosine_and_sine():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = alpha_sigma(t)
    torch.testing.assert_close(alpha, torch.cos(math.pi * t / 2))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


def test_log_snr_inverts():
    t = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    torch.testing.assert_close(t_from_log_snr(log_snr(t)), t)
    assert log_snr(torch.tensor(0.5)).item() == pytest.approx(0, abs=1e-6)
    assert (log_snr(t).diff() < 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_noisy_latents_and_velocity_are_a_rotation(shape: tuple[int, ...]):
    """Turned back, alpha noisy - sigma v is the latents and sigma noisy + alpha v the noise."""
    latents, noise, t = draw(shape)
    noisy, v = add_noise(latents, noise, t), velocity(latents, noise, t)
    alpha, sigma = alpha_sigma(broadcast_t(t, latents))
    torch.testing.assert_close(alpha * noisy - sigma * v, latents)
    torch.testing.assert_close(sigma * noisy + alpha * v, noise)


def test_a_level_per_frame_acts_on_its_frame_alone():
    latents, noise, _ = draw(())
    t = torch.zeros(3, 10, dtype=torch.float64)
    t[1, 4] = 1.0
    noisy = add_noise(latents, noise, t)
    changed = (noisy != latents).any(dim=1)
    assert changed.nonzero().tolist() == [[1, 4]]
    torch.testing.assert_close(noisy[1, :, 4], noise[1, :, 4])


@pytest.mark.parametrize("shape", [(2,), (3, 9), (4, 10), (3, 4, 10)])
def test_a_t_that_does_not_fit_is_named(shape: tuple[int, ...]):
    latents, noise, _ = draw(())
    with pytest.raises(ValueError, match=r"t must be \(batch,\) = \(3,\) or \(batch, frames\) = \(3, 10\)"):
        add_noise(latents, noise, torch.zeros(shape))
