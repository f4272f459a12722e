"""Distances between sets against closed forms, torchaudio, and direct sums."""

import math

import numpy as np
import pytest
import torch
import torchaudio

from infer.metrics.distances import (
    Gaussian,
    fit_gaussian,
    frechet_distance,
    frechet_distance_infinite,
    gaussian_distance,
    kernel_distance,
    median_bandwidth,
)


def normal(num: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_distance_of_known_gaussians():
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rotation = torch.linalg.qr(normal(6, 6)).Q
    s1, s2 = torch.tensor([1.0, 2, 3, 0.5, 0, 1]).double(), torch.tensor([2.0, 2, 1, 0, 0.3, 1]).double()
    shift = normal(1, 6, 1)[0]
    first = Gaussian(torch.zeros(6).double(), rotation @ torch.diag(s1**2) @ rotation.T, 0)
    second = Gaussian(shift, rotation @ torch.diag(s2**2) @ rotation.T, 0)
    expected = float(shift.square().sum() + (s1 - s2).square().sum())
    assert gaussian_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert gaussian_distance(second, first) == pytest.approx(expected, rel=1e-6)
    assert gaussian_distance(first, first) == pytest.approx(0, abs=1e-6)


@pytest.mark.parity
def test_distance_agrees_with_torchaudio():
    first, second = normal(200, 8) * 2 + 1, normal(150, 8, 1) @ normal(8, 8, 2)
    fits = [(rows.mean(0), torch.cov(rows.T)) for rows in (first, second)]
    expected = torchaudio.functional.frechet_distance(*fits[0], *fits[1]).item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first.float().numpy(), second.float().numpy()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("num", "other"), [(10, 12), (10, 200), (40, 40)])
def test_fewer_clips_than_dimensions(num: int, other: int):
    """The factored form equals the eigenvalues of the singular covariances."""
    first, second = normal(num, 40) + 0.5, normal(other, 40, 1) * 1.5
    expected = gaussian_distance(fit_gaussian(first), fit_gaussian(second))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0, abs=1e-8)


def test_order_and_shift():
    rows = normal(50, 4)
    assert frechet_distance(rows, rows[torch.randperm(50)]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows, rows + torch.tensor([3.0, 0, 0, 4])) == pytest.approx(25.0, rel=1e-9)


def test_extrapolation_removes_the_bias_of_a_small_set():
    reference = Gaussian(torch.zeros(16).double(), torch.eye(16).double(), 0)
    rows = normal(600, 16)
    finite = gaussian_distance(fit_gaussian(rows), reference)
    infinite = frechet_distance_infinite(rows, reference)
    assert abs(infinite) < 0.35 * finite
    assert frechet_distance_infinite(rows.numpy(), normal(600, 16, 1)) < frechet_distance(rows, normal(600, 16, 1))


def test_kernel_distance_by_direct_sums():
    first, second = normal(30, 3), normal(20, 3, 1) + 1

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * 1.7**2))

    def mean(xs: torch.Tensor, ys: torch.Tensor, same: bool) -> float:
        return float(np.mean([kernel(a, b) for i, a in enumerate(xs) for j, b in enumerate(ys) if not same or i != j]))

    expected = 100 * (mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False))
    assert kernel_distance(first, second, bandwidth=1.7) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased_and_grows():
    same = [kernel_distance(normal(40, 5, 2 * seed), normal(40, 5, 2 * seed + 1)) for seed in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(20)
    near, far = (kernel_distance(normal(40, 5) + shift, normal(40, 5, 1)) for shift in (0.3, 1.0))
    assert max(map(abs, same)) < far
    assert near < far


def test_bandwidth_is_the_median_distance():
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_bandwidth(rows) == 2.0


def test_refusals():
    with pytest.raises(ValueError, match="differ in width"):
        frechet_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="all embeddings"):
        kernel_distance(normal(5, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="at least"):
        frechet_distance_infinite(normal(3, 3), normal(9, 3))
