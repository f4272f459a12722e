"""The noise process shared by training and sampling: t, alpha, sigma, log-SNR and the velocity target.

Variance-preserving cosine process in continuous time, t = 0 clean and t = 1 pure noise:

    noisy = alpha * latents + sigma * noise         alpha = cos(pi t / 2), sigma = sin(pi t / 2)
    v     = alpha * noise   - sigma * latents

Tensors: latents, noise, noisy, v are (batch, channels, frames); t is one level per clip, (batch,), one per
frame, (batch, frames), or a scalar tensor. Every function accepts all three.

Source: Salimans & Ho 2022 (v-prediction); Nichol & Dhariwal 2021 (cosine); the levels per frame follow Diffusion
Forcing and FIFO-Diffusion.
"""

import math

import torch
from torch import Tensor


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signal and noise amplitudes at t, in t's shape; exactly (1, 0) at t = 0 and (0, 1) at t = 1."""
    return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def log_snr(t: Tensor) -> Tensor:
    """Return 2 log(alpha / sigma): +inf at t = 0, 0 at t = 1/2, -inf at t = 1."""
    alpha, sigma = alpha_sigma(t)
    return 2 * (alpha.log() - sigma.log())


def t_from_log_snr(logsnr: Tensor) -> Tensor:
    """Invert `log_snr`."""
    return torch.atan(torch.exp(-logsnr / 2)) * (2 / math.pi)


def broadcast_t(t: Tensor, latents: Tensor) -> Tensor:
    """Shape t, (), (batch,) or (batch, frames), so that it multiplies latents (batch, channels, frames)."""
    batch, _, frames = latents.shape
    if t.ndim == 0:
        return t[None, None, None]
    if t.ndim == 1 and t.shape[0] in (1, batch):
        return t[:, None, None]
    if t.ndim == 2 and t.shape[0] in (1, batch) and t.shape[1] in (1, frames):
        return t[:, None, :]
    raise ValueError(
        f"t must be (batch,) = ({batch},) or (batch, frames) = ({batch}, {frames}) for latents of shape "
        f"{tuple(latents.shape)}, got {tuple(t.shape)}"
    )


def _amplitudes(t: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    return alpha_sigma(broadcast_t(t, latents))


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the latents at noise level t."""
    alpha, sigma = _amplitudes(t, latents)
    return alpha * latents + sigma * noise


def velocity(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the training target v."""
    alpha, sigma = _amplitudes(t, latents)
    return alpha * noise - sigma * latents
