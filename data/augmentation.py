"""Changes to a training crop after which its caption is still true: level, polarity, sides. Off by default."""

import dataclasses

import numpy as np

from models.errors import check_bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How often a training crop of a folder or of shards is changed, and how."""

    gain: float = 0.0
    """Probability of another level."""
    gain_db: float = 6.0
    """The level changes by up to so much, up or down (dB); never beyond full scale."""
    invert: float = 0.0
    """Probability of opposite polarity."""
    swap: float = 0.0
    """Probability of left and right swapped; not for captions that name a side."""

    def __post_init__(self) -> None:
        for name in ("gain", "invert", "swap"):
            check_bounds(f"data.augmentation.{name}", getattr(self, name), 0, 1)
        check_bounds("data.augmentation.gain_db", self.gain_db, 0, 60)


def augment(audio: np.ndarray, config: AugmentationConfig, generator: np.random.Generator) -> np.ndarray:
    """Return (2, samples) changed at random; what is off is not drawn, so that it changes nothing else."""
    if config.gain and generator.random() < config.gain:
        gain = 10 ** (generator.uniform(-config.gain_db, config.gain_db) / 20)
        peak = float(np.abs(audio).max(initial=0))
        audio = audio * np.float32(min(gain, max(1.0, peak) / peak) if peak else 1)
    if config.invert and generator.random() < config.invert:
        audio = -audio
    if config.swap and generator.random() < config.swap:
        audio = audio[::-1]
    return audio
