"""Measurements on signals whose facts are known, and on corpus clips with and without noise."""

import math

import numpy as np
import pytest
import torch

from data.synthetic import draw_clip, plan_clip
from infer.metrics.facts import (
    active_seconds,
    level,
    pitch_hz,
    pitch_matches,
    side,
    side_db,
    spectral_centroid_hz,
    stereo_correlation,
    tempo_bpm,
    tempo_matches,
)

RATE = 44_100


def tone(hz: float, seconds: float = 1.5, harmonics: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * np.sum([np.sin(2 * np.pi * hz * k * time) / k for k in range(1, harmonics + 1)], axis=0)


def clicks(bpm: float, seconds: float = 6.0) -> np.ndarray:
    audio = np.zeros(round(seconds * RATE))
    burst = np.random.default_rng(0).standard_normal(800) * np.exp(-np.arange(800) / 200)
    for start in np.round(np.arange(0.05, seconds - 0.05, 60 / bpm) * RATE).astype(int):
        audio[start : start + 800] += 0.2 * burst
    return audio


def noise(seconds: float = 3.0, channels: int = 2, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))


@pytest.mark.parametrize("bpm", [60, 90, 110, 120, 180])
def test_tempo_of_clicks(bpm: float) -> None:
    assert tempo_bpm(clicks(bpm)) == pytest.approx(bpm, rel=0.005)
    assert tempo_bpm(np.stack((clicks(bpm), clicks(bpm))) + 0.01 * noise(6.0)) == pytest.approx(bpm, rel=0.005)


def test_tempo_of_what_has_none() -> None:
    assert all(math.isnan(tempo_bpm(noise(seconds, seed=seed))) for seconds in (3.0, 9.0) for seed in range(3))
    assert math.isnan(tempo_bpm(np.zeros((2, RATE))))
    assert math.isnan(tempo_bpm(np.zeros((2, 2000))))


@pytest.mark.parametrize("hz", [130.81, 261.63, 440.0, 987.77])
@pytest.mark.parametrize("harmonics", [1, 2, 10])
def test_pitch_of_tones(hz: float, harmonics: int) -> None:
    assert pitch_hz(tone(hz, harmonics=harmonics)) == pytest.approx(hz, rel=0.005)


def test_pitch_under_noise_and_of_noise() -> None:
    mixture = tone(220.0, 3.0, harmonics=6) + 0.3 * noise(3.0)
    assert pitch_hz(mixture) == pytest.approx(220.0, rel=0.01)
    assert math.isnan(pitch_hz(noise()))
    assert math.isnan(pitch_hz(np.zeros((2, RATE))))


def test_side_and_correlation() -> None:
    left = np.stack((tone(440.0), 0.1 * tone(440.0)))
    assert side_db(left) == pytest.approx(20.0, abs=1e-6)
    assert side_db(left[::-1].copy()) == pytest.approx(-20.0, abs=1e-6)
    assert side(left) == "left"
    assert side(left[::-1].copy()) == "right"
    assert side(np.stack((tone(440.0), tone(440.0)))) == "center"
    assert side(noise()) == "wide"
    assert stereo_correlation(left) == pytest.approx(1.0, abs=1e-6)
    assert abs(stereo_correlation(noise())) < 0.02
    assert side_db(tone(440.0)) == 0.0


def test_centroid() -> None:
    assert spectral_centroid_hz(tone(1000.0)) == pytest.approx(1000.0, rel=0.01)
    assert spectral_centroid_hz(noise()) == pytest.approx(RATE / 4, rel=0.02)


def test_active_seconds() -> None:
    audio = np.zeros((2, 4 * RATE))
    audio[0, RATE : 2 * RATE] = tone(440.0, 1.0)
    assert active_seconds(audio) == pytest.approx(1.0, abs=0.03)
    assert active_seconds(np.zeros((2, RATE))) == 0.0
    assert active_seconds(audio + 1e-4) == pytest.approx(1.0, abs=0.03)  # below the threshold


def test_level() -> None:
    audio = np.stack((10 * tone(441.0, 1.0) * 0.5 + 0.01, np.zeros(RATE)))
    measured = level(torch.from_numpy(audio))
    assert measured.peak == pytest.approx(0.51, abs=1e-3)
    assert measured.clipped_share == 0.0
    assert measured.silence_share == 0.0
    assert level(np.ones((1, 2000))).clipped_share == 1.0
    assert level(np.zeros((2, RATE))).silence_share == 1.0


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="channels, samples"):
        level(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="not empty"):
        tempo_bpm(np.zeros((2, 0)))


def test_matches() -> None:
    assert tempo_matches(118, 120)
    assert not tempo_matches(60, 120)
    assert not tempo_matches(math.nan, 120)
    assert pitch_matches(445, 440)
    assert not pitch_matches(880, 440)
    assert not pitch_matches(math.nan, 440)


def corpus_clips(fact: str, number: int) -> list[tuple[np.ndarray, dict]]:
    """Single-layer corpus clips of 4 to 15 s with a fact: (audio, the layer's metadata)."""
    clips = []
    seed = 0
    while len(clips) < number:
        seed += 1
        layers, _, metadata = plan_clip(seed)
        if len(layers) == 1 and fact in metadata["layers"][0] and 4 < metadata["seconds_total"] < 15:
            clips.append((draw_clip(seed).audio, metadata["layers"][0]))
    return clips


def add_noise(audio: np.ndarray, below_db: float, seed: int) -> np.ndarray:
    """White noise this far below the sound's rms."""
    generated = np.random.default_rng(seed).standard_normal(audio.shape)
    return audio + generated * np.sqrt(np.mean(audio**2)) * 10 ** (-below_db / 20)


@pytest.mark.parametrize("below_db", [60.0, 15.0])
def test_corpus_tempo(below_db: float) -> None:
    clips = corpus_clips("tempo_bpm", 20)
    right = [
        tempo_matches(tempo_bpm(add_noise(audio, below_db, seed)), facts["tempo_bpm"])
        for seed, (audio, facts) in enumerate(clips)
    ]
    assert np.mean(right) >= 0.85


@pytest.mark.parametrize("below_db", [60.0, 15.0])
def test_corpus_pitch(below_db: float) -> None:
    clips = corpus_clips("pitch_hz", 12)
    right = [
        pitch_matches(pitch_hz(add_noise(audio, below_db, seed)), facts["pitch_hz"])
        for seed, (audio, facts) in enumerate(clips)
    ]
    assert np.mean(right) >= 0.9


def test_corpus_side() -> None:
    clips = corpus_clips("side", 24)
    right = [side(audio) == facts["side"] for audio, facts in clips]
    assert np.mean(right) >= 0.9
    assert {facts["side"] for _, facts in clips} == {"left", "right", "center", "wide"}
