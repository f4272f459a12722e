"""Augmentations: each by its probability, nothing beyond full scale, nothing drawn for what is off."""

import numpy as np
import pytest

from data.augmentation import AugmentationConfig, augment
from models.errors import UserError

AUDIO = np.stack((np.linspace(-0.5, 0.4, 64), np.linspace(0.1, 0.2, 64))).astype(np.float32)


def test_off_by_default() -> None:
    generator = np.random.default_rng(0)
    assert augment(AUDIO, AugmentationConfig(), generator) is AUDIO
    assert generator.random() == np.random.default_rng(0).random()


def test_polarity_and_sides() -> None:
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(augment(AUDIO, AugmentationConfig(invert=1), generator), -AUDIO)
    np.testing.assert_array_equal(augment(AUDIO, AugmentationConfig(swap=1), generator), AUDIO[::-1])


def test_gain_is_within_its_range_and_full_scale() -> None:
    generator = np.random.default_rng(0)
    gains = [augment(AUDIO, AugmentationConfig(gain=1, gain_db=6), generator)[0, 0] / AUDIO[0, 0] for _ in range(200)]
    assert min(gains) == pytest.approx(10 ** (-6 / 20), rel=0.05)
    assert max(gains) == pytest.approx(10 ** (6 / 20), rel=0.05)
    loud = augment(AUDIO, AugmentationConfig(gain=1, gain_db=60), np.random.default_rng(1))
    assert np.abs(loud).max() <= 1.0001
    silence = np.zeros((2, 8), np.float32)
    np.testing.assert_array_equal(augment(silence, AugmentationConfig(gain=1), generator), silence)


def test_probabilities() -> None:
    generator, config = np.random.default_rng(0), AugmentationConfig(invert=0.3)
    inverted = sum(augment(AUDIO, config, generator)[0, 0] > 0 for _ in range(1_000))
    assert inverted == pytest.approx(300, abs=50)
    with pytest.raises(UserError, match=r"data\.augmentation\.swap must be in \[0, 1\], got 2"):
        AugmentationConfig(swap=2)
