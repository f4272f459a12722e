"""The noise schedule of a network trained to predict noise at discrete timesteps, as this project's noise time t.

    alpha_k^2 = prod_{i <= k} (1 - beta_i),   t_k = 2/pi atan2(sigma_k, alpha_k),   k = -1 is clean, t = 0
    v = (eps - sigma x) / alpha

Between the entries of the table t is interpolated linearly. The last entry is not pure noise: with AudioLDM's betas
t(999) = 0.992. A position u = (k + 1) / num_timesteps in [0, 1] is the host's own time: the papers' grids are equal in
u, and their thirds are thirds of u.

Sources: Ho et al. 2020 (DDPM), eq. 4; Salimans & Ho 2022, appendix D (v from eps).
"""

import math

import torch
from torch import Tensor

from models.diffusion import alpha_sigma


class NoiseClock:
    """A table of cumulative alphas as the noise time t, in both directions.

    Args:
        alphas_cumprod: (num_timesteps,) products of 1 - beta, falling.
    """

    def __init__(self, alphas_cumprod: Tensor):
        alpha_squared = torch.cat((torch.ones(1, dtype=torch.float64), alphas_cumprod.double()))
        # The arc tangent keeps its digits at both ends, the arc cosine of alpha does not.
        self._t = torch.atan2((1 - alpha_squared).sqrt(), alpha_squared.sqrt()) * (2 / math.pi)  # entry k + 1
        self.num_timesteps = len(alphas_cumprod)

    def t_of_timestep(self, timestep: Tensor) -> Tensor:
        """Return t, float64, of timesteps from -1 (clean) to num_timesteps - 1, fractions included."""
        entry = timestep.double() + 1
        low = entry.floor().clamp(0, self.num_timesteps - 1).long()
        return torch.lerp(self._t[low], self._t[low + 1], entry - low)

    def t_of_position(self, position: Tensor) -> Tensor:
        """Return t, float64, of positions u in the host's own time, 0 clean to 1 noise."""
        return self.t_of_timestep(position.double() * self.num_timesteps - 1)

    def timestep_of_t(self, t: Tensor) -> Tensor:
        """Return the timesteps, float32 of any shape, of noise times; -1 at t = 0, the last one at its t and above."""
        table = self._t.to(t.device, torch.float32)
        high = torch.searchsorted(table, t.float().contiguous()).clamp(1, self.num_timesteps)
        share = (t - table[high - 1]) / (table[high] - table[high - 1])
        return high - 2 + share.clamp(max=1)

    def position_of_t(self, t: Tensor) -> Tensor:
        """Return the positions u, float32, of noise times: the inverse of `t_of_position`."""
        return (self.timestep_of_t(t) + 1) / self.num_timesteps


def velocity_from_eps(latents: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Turn a prediction of the noise into v, in float32.

    Args:
        latents, eps: (batch, channels, frames).
        t: (batch, frames), below 1.
    """
    alpha, sigma = (values[:, None] for values in alpha_sigma(t.float()))
    return (eps.float() - sigma * latents.float()) / alpha
