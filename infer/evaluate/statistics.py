"""How sure a score is, and whether two scores differ: bootstrap and permutation, no assumption on distributions.

Sources: Efron & Tibshirani 1993 (percentile bootstrap); Phipson & Smyth 2010 (permutation p-values are never 0).
"""

import numpy as np

NUM_RESAMPLES = 2000
LEVEL = 0.95


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (num,); NaN for none, the value itself for one."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a mean difference of pairs (num,) being zero, by flipping signs at random."""
    differences = np.asarray(differences, dtype=np.float64)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(NUM_RESAMPLES, len(differences)))
    by_chance = np.abs((signs * differences).mean(axis=1))
    return _p_value(by_chance, abs(differences.mean()))


def unpaired_p(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of two means being equal, by dealing all values out again at random."""
    together = np.concatenate((first, second)).astype(np.float64)
    rng = np.random.default_rng(seed)
    by_chance = np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        dealt = rng.permutation(together)
        by_chance[index] = abs(dealt[: len(first)].mean() - dealt[len(first) :].mean())
    return _p_value(by_chance, float(abs(np.mean(first) - np.mean(second))))


def _p_value(by_chance: np.ndarray, observed: float) -> float:
    reached = int(np.sum(by_chance >= observed - 1e-12))
    return (reached + 1) / (len(by_chance) + 1)
