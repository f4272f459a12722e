import pytest
import torch

from infer.hosts.noise_clock import NoiseClock, velocity_from_eps
from models.diffusion import add_noise, alpha_sigma, velocity


@pytest.fixture
def clock() -> NoiseClock:
    """AudioLDM's: scaled-linear betas."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseClock((1 - betas).cumprod(0))


def test_alpha_of_a_timestep_is_the_tables(clock):
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    k = torch.tensor([0, 1, 250, 500, 998, 999])
    alpha, _ = alpha_sigma(clock.t_of_timestep(k))
    torch.testing.assert_close(alpha**2, (1 - betas).cumprod(0)[k], rtol=1e-12, atol=0)


def test_known_values(clock):
    t = clock.t_of_timestep(torch.tensor([-1, 0, 500, 999]))
    torch.testing.assert_close(t, torch.tensor([0, 0.0247, 0.7798, 0.9924], dtype=torch.float64), atol=5e-5, rtol=0)
    thirds = clock.t_of_position(torch.tensor([1 / 3, 2 / 3]))
    torch.testing.assert_close(thirds, torch.tensor([0.600, 0.902], dtype=torch.float64), atol=5e-4, rtol=0)


def test_timesteps_come_back_between_the_entries_too(clock):
    k = torch.cat((torch.linspace(-1, 999, 1777), torch.tensor([0.0, 1.0, 500.5, 999.0])))
    torch.testing.assert_close(clock.timestep_of_t(clock.t_of_timestep(k).float()), k, atol=2e-3, rtol=0)


def test_positions_come_back(clock):
    u = torch.linspace(0, 1, 333)
    torch.testing.assert_close(clock.position_of_t(clock.t_of_position(u).float()), u, atol=2e-6, rtol=0)


def test_more_noise_than_the_table_has_is_its_last_timestep(clock):
    assert clock.timestep_of_t(torch.tensor([0.995, 1.0])).tolist() == [999, 999]


def test_velocity_of_the_true_noise_is_the_true_velocity():
    x, noise, t = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.rand(2, 5) * 0.95
    torch.testing.assert_close(
        velocity_from_eps(add_noise(x, noise, t), noise, t), velocity(x, noise, t), atol=1e-4, rtol=1e-4
    )
