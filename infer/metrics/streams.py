"""How an endless sound develops: does it keep to its prompt, drift away, repeat itself, change its level?

embeddings (windows, width) of successive windows of one stream, or (streams, windows, width) of several equally long
ones, by any embedder; text (width,). No metric here knows how the embeddings were made.

Consistency alone rewards a loop, and variety alone rewards noise: `repetition` is to be reported beside `consistency`.

Sources: self-similarity: Foote 1999; cosine to the prompt: Wu et al. 2022 (CLAP); drift: distances of `distances`
between windows of many streams, as Fréchet video distance is taken of windows by Kim et al. 2024 (FIFO-Diffusion);
loudness: ITU-R BS.1770. How they are put together is this project's way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.metrics.distances import kernel_distance
from infer.metrics.facts import TINY, level
from infer.metrics.loudness import LoudnessMeter
from infer.metrics.spectra import Audio, to_channels

BLOCK_SECONDS = 3.0


@dataclass(frozen=True)
class Adherence:
    """How well a stream keeps to its prompt: cosines between its windows and the text."""

    mean: float
    slope_per_minute: float
    """Of a straight line through the windows' cosines."""
    tenth_percentile: float


def adherence(embeddings: Tensor, text: Tensor, hop_seconds: float) -> Adherence:
    """Compare every window (windows, width) with the prompt (width,)."""
    cosines = F.cosine_similarity(embeddings.double(), text.double()[None], dim=-1)
    return Adherence(
        mean=float(cosines.mean()),
        slope_per_minute=slope(torch.arange(len(cosines)) * (hop_seconds / 60), cosines),
        tenth_percentile=float(cosines.quantile(0.1)),
    )


def slope(position: Tensor, values: Tensor) -> float:
    """Least-squares slope of values (num,) over positions (num,); 0 for a single one."""
    centred = position.double() - position.double().mean()
    return float((centred * values.double()).sum() / centred.square().sum().clamp_min(1e-12))


def consistency(embeddings: Tensor) -> float:
    """How alike the windows of a stream are, of several streams (streams, windows, width).

    The mean cosine between two windows of one stream, on a scale where that between windows of different streams is 0
    and identity is 1.

    Raises:
        ValueError: there are fewer than two streams or windows.
    """
    if embeddings.ndim != 3 or min(embeddings.shape[:2]) < 2:
        raise ValueError(f"embeddings must be (streams, windows, width) with 2 of each, got {tuple(embeddings.shape)}")
    unit = F.normalize(embeddings.double(), dim=-1)
    num_streams, num_windows, _ = unit.shape
    pairs = unit @ unit.transpose(1, 2)  # (streams, windows, windows)
    within = (pairs.sum() - pairs.diagonal(dim1=1, dim2=2).sum()) / (num_streams * num_windows * (num_windows - 1))
    sums = unit.sum(dim=1)  # (streams, width)
    between = sums.sum(dim=0).square().sum() - sums.square().sum()
    between = between / (num_streams * (num_streams - 1) * num_windows**2)
    return float((within - between) / (1 - between)) if between < 1 else float("nan")


def drift(embeddings: Tensor) -> list[float]:
    """Kernel distance between the first windows of many streams (streams, windows, width) and the k-th, k >= 1."""
    if embeddings.ndim != 3 or embeddings.shape[1] < 2:
        raise ValueError(f"embeddings must be (streams, 2 or more windows, width), got {tuple(embeddings.shape)}")
    return [kernel_distance(embeddings[:, k], embeddings[:, 0]) for k in range(1, embeddings.shape[1])]


@dataclass(frozen=True)
class Repetition:
    """How much a stream repeats itself."""

    highest: float
    """Largest cosine between two windows that are at least `least_lag` apart."""
    near_repeats: float
    """Share of windows with another one that far away and nearly equal to it."""


def self_similarity(embeddings: Tensor) -> Tensor:
    """Cosine of every pair of windows: (windows, windows)."""
    unit = F.normalize(embeddings.double(), dim=-1)
    return unit @ unit.T


def repetition(embeddings: Tensor, least_lag: int = 1, threshold: float = 0.99) -> Repetition:
    """Look for windows (windows, width) that come back.

    Args:
        least_lag: windows nearer than this are no repetition: at least the overlap of neighbours.
        threshold: cosine from which on two windows are nearly equal.
    """
    num = len(embeddings)
    if not 1 <= least_lag < num:
        raise ValueError(f"least_lag must lie between 1 and the {num} windows less one, got {least_lag}")
    similarity = self_similarity(embeddings)
    lag = (torch.arange(num)[:, None] - torch.arange(num)[None]).abs()
    far = similarity.masked_fill(lag < least_lag, -torch.inf).amax(dim=1)
    return Repetition(float(far.max()), float((far >= threshold).double().mean()))


@dataclass(frozen=True, kw_only=True)
class LevelCourse:
    """Levels of a long sound."""

    loudness_lufs: float | None
    """Integrated over all; None for silence."""
    drift_lu_per_minute: float | None
    """Slope of the loudness of 3 s blocks; None with fewer than two that sound."""
    clipped_share: float
    silence_share: float
    stereo_correlation: float


def level_course(blocks: Iterable[Audio], sample_rate: int = 44_100) -> LevelCourse:
    """Measure loudness and its drift, clipping, silence and stereo of a sound of any length.

    Args:
        blocks: the sound in pieces of `BLOCK_SECONDS`, one at a time in memory; the last may be shorter.
    """
    whole, minutes, loudness, shares, moments = None, [], [], [], []
    position, length = 0, round(BLOCK_SECONDS * sample_rate)
    for block in blocks:
        channels = to_channels(block)
        whole = whole or LoudnessMeter(sample_rate, len(channels))
        meter = LoudnessMeter(sample_rate, len(channels))
        for each in (whole, meter):
            each.push(channels.numpy())
        lufs = meter.lufs()
        if lufs is not None and channels.shape[-1] == length:
            minutes.append(position / sample_rate / 60)
            loudness.append(lufs)
        levels, size = level(channels, sample_rate), channels.shape[-1]
        shares.append(size * torch.tensor((1.0, levels.clipped_share, levels.silence_share), dtype=torch.float64))
        left, right = channels[0].double(), channels[-1].double()
        moments.append(torch.stack([x.sum() for x in (left, right, left**2, right**2, left * right)]))
        position += size
    if whole is None:
        raise ValueError("there is no sound to measure")
    num_samples, clipped, silent = torch.stack(shares).sum(dim=0)
    left, right, left_left, right_right, left_right = torch.stack(moments).sum(dim=0) / num_samples
    norm = ((left_left - left**2) * (right_right - right**2)).clamp_min(0).sqrt()
    values = torch.tensor(loudness, dtype=torch.float64)
    return LevelCourse(
        loudness_lufs=whole.lufs(),
        drift_lu_per_minute=slope(torch.tensor(minutes), values) if len(values) > 1 else None,
        clipped_share=float(clipped / num_samples),
        silence_share=float(silent / num_samples),
        stereo_correlation=float((left_right - left * right) / (norm + TINY)),
    )
