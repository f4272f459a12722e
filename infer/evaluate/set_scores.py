"""Scores of a set of clips as a whole, with intervals: distances to a reference, labels, agreement with prompts."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from infer.evaluate.embeddings import EmbeddedClips
from infer.evaluate.results import Better, Results, Score
from infer.metrics.distances import (
    Gaussian,
    fit_gaussian,
    frechet_distance,
    frechet_distance_infinite,
    gaussian_distance,
    kernel_distance,
)
from infer.metrics.labels import Direction, clap_scores, inception_score, label_divergence

NUM_RESAMPLES = 30
SMALLEST_FOR_INFINITE = 30


def resampled(statistic: Callable[[Sequence[int]], float], num: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a statistic of a set, from resampled sets of clips.

    Resampled sets hold clips twice, which shifts a distance: the spread of the resamples is laid around the statistic
    of the whole set.

    Args:
        statistic: of the clips with these numbers.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(num, size=num).tolist()) for _ in range(NUM_RESAMPLES)])
    low, high = np.quantile(values, [0.025, 0.975]) - values.mean()
    whole = statistic(range(num))
    return whole + float(low), whole + float(high)


def add_distances(
    results: Results, subject: str, name: str, clips: EmbeddedClips, reference: EmbeddedClips | Gaussian
) -> None:
    """Add Fréchet distance, its extrapolation, and (where the reference is a set of clips) kernel distance."""
    target = reference if isinstance(reference, Gaussian) else reference.windows()

    def frechet(index: Sequence[int]) -> float:
        windows = clips.take(index).windows()
        if isinstance(target, Gaussian):
            return gaussian_distance(fit_gaussian(windows), target)
        return frechet_distance(windows, target)

    _add(results, f"FD {name}", subject, frechet, len(clips), "lower")
    windows = clips.windows()
    if len(windows) >= SMALLEST_FOR_INFINITE:
        results.scores.append(
            Score(
                measure=f"FD infinite {name}",
                subject=subject,
                value=frechet_distance_infinite(windows, target, results.seed),
                num=len(clips),
                better="lower",
            )
        )
    if not isinstance(target, Gaussian):
        # Clips drawn twice have distance 0 to themselves, which the unbiased estimate does not expect: no interval.
        value = kernel_distance(windows, target)
        results.scores.append(
            Score(measure=f"KAD {name}", subject=subject, value=value, num=len(clips), better="lower")
        )


def _add(
    results: Results,
    measure: str,
    subject: str,
    statistic: Callable[[Sequence[int]], float],
    num: int,
    better: Better,
) -> None:
    low, high = resampled(statistic, num, results.seed)
    value = statistic(range(num))
    results.scores.append(
        Score(measure=measure, subject=subject, value=value, low=low, high=high, num=num, better=better)
    )


def add_divergence(
    results: Results,
    subject: str,
    name: str,
    names: Sequence[str],
    clips: EmbeddedClips,
    reference: EmbeddedClips,
    direction: Direction,
) -> None:
    """Add the mean KL divergence of labels between clips and real clips of the same names."""
    values = label_divergence(clips.logits(), reference.logits(), direction)
    by_name = dict(zip(names, values.tolist(), strict=True))
    results.add_average(f"KL {name} ({direction})", subject, by_name, "lower")


def add_inception(results: Results, subject: str, name: str, clips: EmbeddedClips) -> None:
    """Add the inception-style score of the clips' labels."""
    logits = clips.logits()
    _add(results, f"IS {name}", subject, lambda index: inception_score(logits[list(index)]), len(clips), "higher")


def add_agreement(
    results: Results, subject: str, name: str, names: Sequence[str], clips: EmbeddedClips, text: Tensor
) -> None:
    """Add the mean cosine between clips and their prompts' vectors (clips, width)."""
    values = clap_scores(clips.means(), text)
    results.add_average(f"CLAP score {name}", subject, dict(zip(names, values.tolist(), strict=True)))
