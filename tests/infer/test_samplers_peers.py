"""The second-order sampler beside k-diffusion's and diffusers' (optional: pip install -e ".[peers]").

Both get the same grid of noise times, the same start and a denoiser with a known answer.
"""

import math

import pytest
import torch
from torch import Tensor

from infer.samplers import sample
from models.diffusion import alpha_sigma

T_MAX, NUM_STEPS = 0.97, 12
SHAPE = (2, 3, 8)


def denoise(x: Tensor, t: Tensor) -> Tensor:
    """Exact denoised estimate of a Gaussian N(0.5, 0.6^2), float64."""
    alpha, sigma = alpha_sigma(t)
    gain = alpha * 0.36 / (alpha**2 * 0.36 + sigma**2)
    return 0.5 + gain * (x - alpha * 0.5)


def ours(x: Tensor, levels: Tensor) -> Tensor:
    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(t[0, 0])
        return (alpha * x - denoise(x, t[0, 0])) / sigma  # the velocity of a denoised x

    return sample(denoiser, x, levels)


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_equals_k_diffusion(noise: Tensor):
    sampling = pytest.importorskip("k_diffusion.sampling")
    levels = torch.cat((torch.zeros(1), torch.linspace(0.02, T_MAX, NUM_STEPS))).double()
    alpha, sigma = alpha_sigma(levels.flip(0))
    noise_to_signal = sigma / alpha

    def model(x: Tensor, noise_to_signal: Tensor) -> Tensor:
        t = 2 / math.pi * torch.atan(noise_to_signal[0])
        return denoise(x * alpha_sigma(t)[0], t)

    theirs = sampling.sample_dpmpp_2m(model, noise / alpha[0], noise_to_signal, disable=True)
    torch.testing.assert_close(ours(noise, levels), theirs, rtol=1e-8, atol=1e-8)


def test_equals_diffusers(noise: Tensor):
    scheduler_class = pytest.importorskip("diffusers").DPMSolverMultistepScheduler
    grid = torch.linspace(0, 1, 1002)[1:-1].double()  # the noise time of each of its 1,000 timesteps
    alphas_squared = alpha_sigma(grid)[0] ** 2
    betas = 1 - alphas_squared / torch.cat((torch.ones(1), alphas_squared[:-1]))
    scheduler = scheduler_class(
        trained_betas=betas.numpy(),
        solver_order=2,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    timesteps = torch.linspace(970, 20, NUM_STEPS).round().long()
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    levels = torch.cat((torch.zeros(1), grid[timesteps].flip(0)))
    x = noise.clone()
    for timestep in scheduler.timesteps:
        x = scheduler.step(denoise(x, grid[timestep]), timestep, x).prev_sample
    torch.testing.assert_close(ours(noise, levels), x, rtol=1e-5, atol=1e-5)
