"""Distances between two sets of embeddings: Fréchet, its extrapolation to infinite sets, and kernel distance.

All of it in float64. Embeddings are (num, width), tensors or memory-mapped arrays: they are read in blocks.

Sources: Heusel et al. 2017 (Fréchet distance); Chong & Forsyth 2020 (1911.07023; infinite sets); Gretton et al. 2012,
eq. 3 (unbiased MMD); Chung et al. 2025 (2502.15602; kernel audio distance: Gaussian kernel, median bandwidth, x 100).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Embeddings = Tensor | np.ndarray

BLOCK_ROWS = 4096
KERNEL_SCALE = 100.0
MAX_BANDWIDTH_ROWS = 4096


@dataclass(frozen=True)
class Gaussian:
    """Mean (width,) and covariance (width, width) of a set, float64."""

    mean: Tensor
    covariance: Tensor
    num: int
    """How many embeddings; 0 where not known."""


def blocks(embeddings: Embeddings, rows: int = BLOCK_ROWS) -> Iterator[Tensor]:
    """Read embeddings in blocks (rows, width), float64 on the CPU."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings must be (num, width) and not empty, got {tuple(embeddings.shape)}")
    for first in range(0, len(embeddings), rows):
        block = embeddings[first : first + rows]
        if isinstance(block, np.ndarray):
            yield torch.from_numpy(np.array(block, dtype=np.float64))
        else:
            yield block.detach().to("cpu", torch.float64)


def fit_gaussian(embeddings: Embeddings) -> Gaussian:
    """Mean and unbiased covariance of a set, read twice in blocks.

    Raises:
        ValueError: there are fewer than two embeddings.
    """
    num = len(embeddings)
    if num < 2:
        raise ValueError(f"a covariance needs at least 2 embeddings, got {num}")
    mean = torch.stack([block.sum(dim=0) for block in blocks(embeddings)]).sum(dim=0) / num
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in blocks(embeddings):
        centred = block - mean
        products += centred.T @ centred
    return Gaussian(mean, products / (num - 1), num)


def gaussian_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance of two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The last trace is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2).
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"embeddings differ in width: {len(first.mean)} and {len(second.mean)}")
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp_min(0).sqrt().sum()
    shift = (first.mean - second.mean).square().sum()
    return max(0.0, float(shift + first.covariance.trace() + second.covariance.trace() - 2 * cross))


def frechet_distance(first: Embeddings, second: Embeddings) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets.

    With fewer embeddings than dimensions the covariances are never built: the trace of (S1 S2)^(1/2) is the sum of
    the singular values of X1 X2^T, the centred sets divided by sqrt(num - 1), which is exact and free of the rounding
    that the empty directions of a singular covariance bring.
    """
    if first.ndim == second.ndim == 2 and first.shape[1] != second.shape[1]:
        raise ValueError(f"embeddings differ in width: {first.shape[1]} and {second.shape[1]}")
    if min(len(first), len(second)) > first.shape[1] or max(len(first), len(second)) > BLOCK_ROWS:
        return gaussian_distance(fit_gaussian(first), fit_gaussian(second))
    means, roots = [], []
    for embeddings in (first, second):
        rows = torch.cat(list(blocks(embeddings)))
        if len(rows) < 2:
            raise ValueError(f"a covariance needs at least 2 embeddings, got {len(rows)}")
        means.append(rows.mean(dim=0))
        roots.append((rows - means[-1]) / (len(rows) - 1) ** 0.5)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots)
    return max(0.0, float((means[0] - means[1]).square().sum() + spread - 2 * cross))


def frechet_distance_infinite(
    embeddings: Embeddings, reference: Gaussian | Embeddings, seed: int = 0, num_sizes: int = 15, smallest: int = 0
) -> float:
    """Extrapolate the Fréchet distance of random subsets, linear in 1 / size, to infinite size.

    Args:
        embeddings: of the generated set, whose size biases the distance.
        reference: the other set, taken as it is.
        smallest: size of the smallest subset; 0: a third of the set.

    Raises:
        ValueError: the set is too small for different subsets.
    """
    gaussian = reference if isinstance(reference, Gaussian) else None
    smallest = smallest or max(2, len(embeddings) // 3)
    if len(embeddings) < smallest + 2:
        raise ValueError(f"extrapolation needs at least {smallest + 2} embeddings, got {len(embeddings)}")
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(smallest, len(embeddings), num_sizes).round().astype(int))
    distances = []
    for size in sizes:
        subset = embeddings[np.sort(rng.permutation(len(embeddings))[:size])]
        if gaussian is not None:
            distances.append(gaussian_distance(fit_gaussian(subset), gaussian))
        else:
            assert not isinstance(reference, Gaussian)
            distances.append(frechet_distance(subset, reference))
    _, intercept = np.polyfit(1.0 / sizes, np.array(distances), 1)
    return float(intercept)


def median_bandwidth(embeddings: Embeddings, seed: int = 0) -> float:
    """Median distance between the embeddings of a set (of at most 4,096 drawn at random)."""
    rng = np.random.default_rng(seed)
    index = np.sort(rng.permutation(len(embeddings))[:MAX_BANDWIDTH_ROWS])
    rows = torch.cat(list(blocks(embeddings[index])))
    if len(rows) < 2:
        raise ValueError(f"a bandwidth needs at least 2 embeddings, got {len(rows)}")
    return float(torch.pdist(rows).quantile(0.5)) if len(rows) <= 2048 else float(torch.pdist(rows).median())


def kernel_distance(first: Embeddings, second: Embeddings, bandwidth: float | None = None) -> float:
    """Kernel audio distance: 100 times the unbiased squared MMD with a Gaussian kernel; may be below 0 by chance.

    Args:
        second: the reference.
        bandwidth: of the kernel exp(-d^2 / (2 bandwidth^2)); None: the median distance within the reference.

    Raises:
        ValueError: a set has fewer than two embeddings, or all of the reference's are equal.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 embeddings a set, got {len(first)} and {len(second)}")
    bandwidth = median_bandwidth(second) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise ValueError("all embeddings of the reference are equal: give a bandwidth")
    within = [(_kernel_sum(s, s, bandwidth) - len(s)) / (len(s) * (len(s) - 1)) for s in (first, second)]
    between = _kernel_sum(first, second, bandwidth) / (len(first) * len(second))
    return KERNEL_SCALE * (within[0] + within[1] - 2 * between)


def _kernel_sum(first: Embeddings, second: Embeddings, bandwidth: float) -> float:
    total = 0.0
    for rows in blocks(first):
        for columns in blocks(second):
            squared = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist").square()
            total += float(torch.exp(-squared / (2 * bandwidth**2)).sum())
    return total
