"""Samplers against the closed form of a Gaussian target, whose denoiser and whose exact solution are known."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from infer.samplers import (
    Sampler,
    draw_noise,
    make_generators,
    sample,
    step,
    step_coefficients,
)
from models.diffusion import alpha_sigma

MEAN, STD = 0.7, 0.3


class GaussianDenoiser:
    """The exact v for latents that are independent N(mean, std^2)."""

    def __init__(self, mean: float = MEAN, std: float = STD):
        self.mean, self.std = mean, std
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        alpha, sigma = (value.unsqueeze(-2) for value in alpha_sigma(t))
        variance = alpha**2 * self.std**2 + sigma**2
        denoised = self.mean + alpha * self.std**2 / variance * (x - alpha * self.mean)
        noise = sigma / variance * (x - alpha * self.mean)
        return alpha * noise - sigma * denoised


def grid(num_steps: int) -> Tensor:
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def exact(x: Tensor, t: float, start: float = 1.0) -> Tensor:
    """The probability-flow ODE keeps (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) from `start` to t."""
    (alpha, sigma), (alpha_0, sigma_0) = (alpha_sigma(torch.tensor(u, dtype=torch.float64)) for u in (t, start))
    spread, spread_0 = ((a**2 * STD**2 + s**2).sqrt() for a, s in ((alpha, sigma), (alpha_0, sigma_0)))
    return alpha * MEAN + spread / spread_0 * (x - alpha_0 * MEAN)


def ode_error(method: Sampler, num_steps: int, end: float = 0.0, start: float = 1.0) -> float:
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).view(1, 2, 8)
    out = sample(GaussianDenoiser(), x, end + (start - end) * grid(num_steps), method)
    return (out - exact(x, end, start)).abs().max().item()


@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("dpmpp_2m_sde", 2)])
def test_converges_to_the_exact_solution_at_its_order(method: Sampler, order: int):
    errors = [ode_error(method, n, 0.05, 0.95) for n in (80, 160, 320)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - order) < 0.15 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize(("method", "order", "bound"), [("ddim", 1, 5e-3), ("dpmpp_2m", 2, 5e-4)])
def test_converges_over_the_whole_range(method: Sampler, order: int, bound: float):
    """From t = 1 and to t = 0 log-SNR is infinite: the order holds up to a logarithm of the number of steps."""
    errors = [ode_error(method, n) for n in (80, 320)]
    assert errors[1] < bound
    assert math.log2(errors[0] / errors[1]) / 2 > 0.72 * order, errors


def test_second_order_beats_four_times_the_steps_of_first_order():
    assert ode_error("dpmpp_2m", 20) < ode_error("ddim", 80)


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m_sde"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_samples_have_the_target_distribution(method: Sampler, eta: float):
    generators = make_generators(3, 1)
    x = draw_noise(generators, 4, 10_000, torch.device("cpu"))
    out = sample(GaussianDenoiser(), x, grid(60), method, eta, generators)
    assert abs(out.mean().item() - MEAN) < 0.01
    assert abs(out.std().item() - STD) < (0.03 if method == "ddim" else 0.01)
    assert abs(torch.corrcoef(torch.stack((x.flatten(), out.flatten())))[0, 1].item()) < (0.5 if eta == 0.5 else 0.05)


def test_ancestral_ddim_and_first_order_sde_are_the_same_step():
    ddim = step_coefficients(grid(7), "ddim", 1.0)
    sde = step_coefficients(grid(7), "dpmpp_2m_sde", 1.0)
    for name in ("state", "estimate", "noise"):
        assert torch.allclose(getattr(ddim, name), getattr(sde, name), atol=1e-12), name


def test_sde_without_noise_is_the_deterministic_method():
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    quiet = sample(GaussianDenoiser(), x, grid(9), "dpmpp_2m_sde")
    assert torch.equal(quiet, sample(GaussianDenoiser(), x, grid(9), "dpmpp_2m"))


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m", "dpmpp_2m_sde"])
def test_ends_are_exact(method: Sampler):
    table = step_coefficients(grid(5), method)
    assert all(getattr(table, name).isfinite().all() for name in ("state", "estimate", "extrapolation", "noise"))
    assert (table.state[0], table.estimate[0], table.extrapolation[0]) == (0, 1, 0)  # the step to t = 0 is D itself
    assert (table.alpha[-1], table.extrapolation[-1]) == (0, 0)
    denoiser = GaussianDenoiser(std=0.0)  # a point: any grid ends on it
    out = sample(denoiser, torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)), grid(1), method)
    assert torch.allclose(out, torch.full_like(out, MEAN), atol=1e-6)


def test_published_formulas():
    """DDIM and DPM-Solver++(2M), written as in their papers, on uneven levels."""
    levels = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x, v, previous = torch.randn(3, 1, 2, 4, generator=generator, dtype=torch.float64)
    (a1, s1), (a, s), (a0, s0) = (alpha_sigma(levels[i]) for i in (1, 2, 3))
    x0, noise = a * x - s * v, s * x + a * v
    index = torch.full((4,), 1)  # from level 2 to level 1
    out, denoised = step(x, v, previous, step_coefficients(levels, "ddim").take(index))
    assert torch.allclose(out, a1 * x0 + s1 * noise)
    assert torch.allclose(denoised, x0)
    h, h_prev = (a1 / s1).log() - (a / s).log(), (a / s).log() - (a0 / s0).log()
    r = h_prev / h
    d = (1 + 1 / (2 * r)) * x0 - previous / (2 * r)
    out, _ = step(x, v, previous, step_coefficients(levels, "dpmpp_2m").take(index))
    assert torch.allclose(out, s1 / s * x - a1 * torch.expm1(-h) * d)


def test_frames_at_different_levels_step_alone():
    generator = torch.Generator().manual_seed(2)
    x, v, previous = torch.randn(3, 1, 2, 6, generator=generator)
    table = step_coefficients(grid(6)).to(torch.device("cpu"))
    index = torch.tensor([0, 1, 2, 3, 4, 5])
    together, _ = step(x, v, previous, table.take(index))
    for i in range(6):
        frame = slice(i, i + 1)
        alone, _ = step(x[..., frame], v[..., frame], previous[..., frame], table.take(index[frame]))
        assert torch.equal(alone, together[..., frame])


def test_denoiser_gets_a_time_for_each_frame_falling_to_the_first_level():
    denoiser = GaussianDenoiser()
    sample(denoiser, torch.zeros(2, 3, 5), grid(4), "ddim")
    assert [t.shape for t in denoiser.times] == [(2, 5)] * 4
    assert [t[0, 0].item() for t in denoiser.times] == [1.0, 0.75, 0.5, 0.25]


def test_sample_does_not_depend_on_its_batch():
    together = make_generators(7, 3)
    x = draw_noise(together, 2, 4, torch.device("cpu"))
    batch = sample(GaussianDenoiser(), x, grid(5), "dpmpp_2m_sde", 1.0, together)
    for k in range(3):
        alone = make_generators(7 + k, 1)
        x = draw_noise(alone, 2, 4, torch.device("cpu"))
        assert torch.equal(sample(GaussianDenoiser(), x, grid(5), "dpmpp_2m_sde", 1.0, alone)[0], batch[k])


def test_bad_input_is_refused():
    x = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="rise strictly"):
        step_coefficients(torch.tensor([0.0, 0.5, 0.5, 1.0]))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        step_coefficients(torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match="adds no noise"):
        step_coefficients(grid(3), "dpmpp_2m", 0.5)
    with pytest.raises(ValueError, match="one generator per sample"):
        sample(GaussianDenoiser(), x, grid(3), "ddim", 1.0)
