"""Samplers for a v-prediction denoiser whose noise time may differ from frame to frame.

The process is variance preserving, x = alpha x0 + sigma eps with alpha = cos(pi t/2), sigma = sin(pi t/2). Every method
here is one update, linear in what the step knows, and `step` is the only place where it is written:

    denoised = alpha x - sigma v
    D        = denoised + extrapolation (denoised - previous)
    x'       = state x + estimate D + noise z

`step_coefficients` computes the six numbers for each step of a time grid; they stay finite at t = 1, where alpha = 0,
and at t = 0, where the step returns D itself. The endless queue of `infer.fifo` takes its numbers from the same table,
one column per frame.

Tensors: x, v, denoised (batch, channels, frames); t (batch, frames); levels (num_steps + 1,), rising from clean.

Sources: Song et al. 2021 (DDIM), eq. 12 and 16; Lu et al. 2022 (DPM-Solver++), algorithm 2 and eq. 18 for the SDE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from models.diffusion import alpha_sigma
from models.errors import UserError
from models.schedule import Focus, time_grid

Sampler = Literal["ddim", "dpmpp_2m", "dpmpp_2m_sde"]
MAX_STEPS = 10_000
MAX_FACTOR = 1000.0


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How noise becomes clean: the method of a step, and where the steps are."""

    sampler: Sampler = "dpmpp_2m"
    """Second order (dpmpp_2m), first order (ddim), or second order with fresh noise (dpmpp_2m_sde)."""
    eta: float = 0.0
    """Share of fresh noise in every step, 0 deterministic to 1 ancestral; not for dpmpp_2m."""
    focus: Focus | Literal["auto"] = "equal"
    """Third of the noise times that keeps its steps: initial (near noise), middle, last (near clean); none (equal); or
    what infer.importance recommended for the model (auto)."""
    factor: float = 3.0
    """How many times thinner the steps outside of the focus are (P)."""

    def __post_init__(self):
        check_sampler(self.sampler, self.eta)
        if not 1 <= self.factor <= MAX_FACTOR:
            raise UserError(f"sampling.factor must lie in [1, {MAX_FACTOR:g}], got {self.factor}")

    @property
    def known_focus(self) -> Focus:
        """The focus; the command puts the model's own in place of auto before anything asks for it."""
        if self.focus == "auto":
            raise UserError("the focus auto is known for a model in a folder only: name one of equal, initial, ...")
        return self.focus

    def grid(self, num_steps: int) -> Tensor:
        """Return the num_steps + 1 noise times that a frame passes, rising from 0 to 1."""
        if not 1 <= num_steps <= MAX_STEPS:
            raise UserError(f"the number of steps must lie between 1 and {MAX_STEPS}, got {num_steps}")
        return time_grid(num_steps, self.known_focus, self.factor)


class Denoiser(Protocol):
    """Predict v (batch, channels, frames) from noisy latents and the noise time of each frame."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class StepCoefficients:
    """The numbers of each step of a grid; entry i - 1 belongs to the step from level u_i to u_(i-1).

    After `take` there is one entry per frame instead. All tensors have the same shape.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    state: Tensor
    estimate: Tensor
    extrapolation: Tensor
    noise: Tensor

    def take(self, index: Tensor) -> "StepCoefficients":
        """Pick the steps in `index`, for example one for each frame."""
        return StepCoefficients(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def span(self, start: int, stop: int) -> "StepCoefficients":
        """Keep the entries from start to before stop."""
        return StepCoefficients(**{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "StepCoefficients":
        """Move to a device; the table is computed in float64 and used in the latents' precision."""
        return StepCoefficients(**{f.name: getattr(self, f.name).to(device, dtype) for f in fields(self)})


def step_coefficients(levels: Tensor, method: Sampler = "dpmpp_2m", eta: float = 0.0) -> StepCoefficients:
    """Compute the coefficients of every step of a time grid, in float64 on the CPU.

    Args:
        levels: (num_steps + 1,) noise times rising strictly from the end of sampling (0) to its start (at most 1).
        eta: share of fresh noise, 0 deterministic, 1 ancestral. `dpmpp_2m` is deterministic and refuses any other.
    """
    check_sampler(method, eta)
    levels = levels.detach().to("cpu", torch.float64)
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() > 0).all()):
        raise ValueError(f"levels must rise strictly and hold at least two times, got {levels.tolist()}")
    if levels[0] < 0 or levels[-1] > 1:
        raise ValueError(f"levels must lie in [0, 1], got {float(levels[0])} to {float(levels[-1])}")
    alphas, sigmas = alpha_sigma(levels)
    alpha, sigma, alpha_next, sigma_next = alphas[1:], sigmas[1:], alphas[:-1], sigmas[:-1]
    decay = alpha * sigma_next / (alpha_next * sigma)  # exp(-h), h = log-SNR step / 2; 0 at both ends
    if method == "ddim":
        noise = eta * (sigma_next / sigma) * (1 - (alpha / alpha_next) ** 2).clamp(min=0).sqrt()
        state = (sigma_next**2 - noise**2).clamp(min=0).sqrt() / sigma
        estimate = alpha_next - alpha * state
    else:
        noise = sigma_next * (1 - decay ** (2 * eta)).clamp(min=0).sqrt() if eta else torch.zeros_like(sigma)
        state = (sigma_next / sigma) * decay**eta
        estimate = alpha_next * (1 - decay ** (1 + eta))
    extrapolation = torch.zeros_like(alpha)
    if method != "ddim":
        h = -decay.log()  # inf at both ends of the full grid: the first two steps and the last are first order
        ratio = h[:-1] / h[1:]  # this step over the one before it, which started one level higher
        extrapolation[:-1] = torch.where(h[:-1].isfinite() & h[1:].isfinite(), ratio / 2, torch.zeros_like(ratio))
    return StepCoefficients(
        t=levels[1:],
        alpha=alpha,
        sigma=sigma,
        state=state,
        estimate=estimate,
        extrapolation=extrapolation,
        noise=noise,
    )


def check_sampler(method: str, eta: float) -> None:
    """Refuse an unknown method or an eta that the method has no use for."""
    if method not in get_args(Sampler):
        raise UserError(f"sampler must be one of {', '.join(get_args(Sampler))}, got {method!r}")
    if not 0 <= eta <= 1:
        raise UserError(f"eta must lie in [0, 1], got {eta}")
    if method == "dpmpp_2m" and eta:
        raise UserError(f"dpmpp_2m adds no noise, got eta {eta}; take dpmpp_2m_sde or ddim")


def step(
    x: Tensor, v: Tensor, previous: Tensor, coefficients: StepCoefficients, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Move every frame one step towards clean; return the new x and the denoised estimate for the next step.

    Args:
        previous: the denoised estimate of the step before; anything finite where the extrapolation is 0.
        coefficients: one entry per frame.
        noise: unit Gaussian, or None for a deterministic method.
    """
    denoised = coefficients.alpha * x - coefficients.sigma * v  # (batch, channels, frames)
    estimate = denoised + coefficients.extrapolation * (denoised - previous)
    x_next = coefficients.state * x + coefficients.estimate * estimate
    if noise is not None:
        x_next = x_next + coefficients.noise * noise
    return x_next, denoised


def draw_noise(generators: Sequence[torch.Generator], channels: int, num_frames: int, device: torch.device) -> Tensor:
    """Draw (batch, channels, frames) unit Gaussian noise on the CPU, each sample from its own generator."""
    noise = [torch.randn(channels, num_frames, generator=generator) for generator in generators]
    return torch.stack(noise).to(device)  # (batch, channels, frames)


def make_generators(seed: int, num_samples: int) -> list[torch.Generator]:
    """Make one CPU generator per sample, seeded seed, seed + 1, ...: a sample does not depend on its batch."""
    return [torch.Generator().manual_seed(seed + k) for k in range(num_samples)]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x: Tensor,
    levels: Tensor,
    method: Sampler = "dpmpp_2m",
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """Denoise x (batch, channels, frames) from the last level to the first and return it.

    Args:
        levels: (num_steps + 1,) noise times rising from 0; x is at the last one.
        generators: one per sample, needed when eta > 0.
        on_step: called with the number of steps done.
    """
    if eta > 0 and len(generators) != len(x):
        raise ValueError(f"eta > 0 needs one generator per sample, got {len(generators)} for {len(x)} samples")
    table = step_coefficients(levels, method, eta).to(x.device, x.dtype)
    num_steps = len(table.t)
    previous = torch.zeros_like(x)
    for i in reversed(range(num_steps)):
        frames = table.take(torch.full((x.shape[-1],), i, device=x.device))
        v = denoiser(x, frames.t.expand(len(x), -1))
        noise = draw_noise(generators, x.shape[1], x.shape[2], x.device) if eta > 0 else None
        x, previous = step(x, v, previous, frames, noise)
        if on_step is not None:
            on_step(num_steps - i)
    return x
