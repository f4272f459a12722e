"""Long streams with known drift, repetition, consistency and level."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from infer.metrics.streams import adherence, consistency, drift, level_course, repetition, self_similarity, slope

RATE = 44_100


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_adherence_of_a_stream_that_turns_away():
    angle = torch.linspace(0, math.pi / 2, 13)
    windows = torch.stack((angle.cos(), angle.sin()), dim=1)
    found = adherence(windows, torch.tensor([1.0, 0.0]), hop_seconds=10.0)
    assert found.mean == pytest.approx(float(angle.cos().mean()), rel=1e-6)
    assert found.tenth_percentile == pytest.approx(float(angle.cos().quantile(0.1)), rel=1e-5)
    line = np.polyfit(np.arange(13) / 6, angle.cos().numpy(), 1)[0]
    assert found.slope_per_minute == pytest.approx(line, rel=1e-5)
    assert slope(torch.tensor([1.0]), torch.tensor([1.0])) == 0


def test_consistency_by_direct_sums_and_its_ends():
    embeddings = normal(3, 5, 4)
    unit = F.normalize(embeddings, dim=-1).double()
    pairs = [float(unit[s, i] @ unit[s, j]) for s in range(3) for i in range(5) for j in range(5) if i != j]
    others = [(s, r) for s in range(3) for r in range(3) if r != s]
    cross = [float(unit[s, i] @ unit[r, j]) for s, r in others for i in range(5) for j in range(5)]
    expected = (np.mean(pairs) - np.mean(cross)) / (1 - np.mean(cross))
    assert consistency(embeddings) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert consistency(normal(4, 1, 8).expand(-1, 6, -1)) == pytest.approx(1)
    assert abs(consistency(normal(40, 20, 8))) < 0.05
    with pytest.raises(ValueError, match="streams, windows, width"):
        consistency(normal(1, 5, 4))


def test_drift_grows_with_the_distance_from_the_start():
    still = normal(60, 5, 4)
    moving = still + torch.arange(5)[None, :, None] * 0.7
    steps = drift(moving)
    assert len(steps) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))
    assert max(drift(still)) < steps[1]


def test_repetition_finds_a_loop_and_not_a_steady_change():
    distinct = normal(20, 32)
    looped = distinct.repeat(3, 1)
    assert repetition(looped).highest == pytest.approx(1)
    assert repetition(looped).near_repeats == 1.0
    assert repetition(distinct).near_repeats == 0.0
    once = torch.cat((distinct, distinct[:2]))
    assert repetition(once).near_repeats == pytest.approx(4 / 22)
    overlapping = torch.cat((distinct, distinct[-1:]))
    assert repetition(overlapping, least_lag=2).near_repeats == 0.0
    torch.testing.assert_close(self_similarity(distinct).diagonal(), torch.ones(20).double())
    with pytest.raises(ValueError, match="least_lag"):
        repetition(distinct, least_lag=20)


def blocks(sound: np.ndarray) -> list[np.ndarray]:
    return np.split(sound, range(3 * RATE, sound.shape[1], 3 * RATE), axis=1)


def test_level_course():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((2, 60 * RATE))
    gain = 10 ** (np.linspace(-30, -24, sound.shape[1]) / 20)
    found = level_course(blocks(sound * gain))
    assert found.drift_lu_per_minute == pytest.approx(6.0, abs=0.1)
    assert found.clipped_share == found.silence_share == 0
    assert abs(found.stereo_correlation) < 0.01
    mixed = np.stack((sound[0], 0.6 * sound[0] + 0.8 * sound[1])) + 0.1
    expected = torch.corrcoef(torch.from_numpy(mixed))[0, 1].item()
    assert level_course(blocks(0.1 * mixed)).stereo_correlation == pytest.approx(expected, abs=1e-4)
    silent = level_course(blocks(np.zeros((2, 10 * RATE))))
    assert silent.loudness_lufs is None
    assert silent.drift_lu_per_minute is None
    assert silent.silence_share == 1.0
    half = level_course(blocks(np.concatenate((sound[:, : 5 * RATE] * 0.1, np.zeros((2, 5 * RATE))), axis=1)))
    assert half.silence_share == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="no sound"):
        level_course([])
    assert level_course([np.ones((2, RATE))]).clipped_share == 1.0
