"""Puts a rendered layer where its facts say: brightness, distance, position, course in time, level."""

from functools import lru_cache

import numpy as np
from scipy import signal

from data.synthetic.layers import SAMPLE_RATE, Layer, samples
from data.synthetic.signals import Shape, db_to_gain, fft_size, irfft, ramp, rfft, spectral_gain

LEVELS_DB = {"quiet": -34.0, "medium": -20.0, "loud": -12.0}
"""Level of a layer's loud 50 ms frames (95th percentile), dBFS."""
SIDE_DB = 20.0
"""Level difference between the ears of a sound on the left or right."""
BRIGHTNESS_SHAPES: dict[str, Shape] = {
    "dark": ((20, 3), (300, 0), (1000, -12), (4000, -34), (16000, -50)),
    "neutral": ((20, 0), (20000, 0)),
    "bright": ((20, -16), (300, -14), (1000, -7), (4000, 4), (16000, 6)),
}
DISTANCE_SHAPES: dict[str, Shape] = {
    "near": ((20, 0), (20000, 0)),
    "medium": ((20, 0), (6000, 0), (20000, -4)),
    "distant": ((20, -4), (150, 0), (1200, -4), (5000, -20), (16000, -40)),
}
DISTANCE_DB = {"near": 2.0, "medium": 0.0, "distant": -8.0}
REVERB = {"near": (0.25, 0.04), "medium": (0.5, 0.15), "distant": (1.6, 1.2)}
"""Reverberation time in seconds, and level of the reverberation relative to the direct sound."""


@lru_cache(maxsize=8)
def room(reverb_seconds: float, num_channels: int) -> np.ndarray:
    """Unit-energy impulse responses of diffuse decay, (channels, samples); channels independent."""
    rng = np.random.default_rng(12345)
    time = np.arange(samples(reverb_seconds)) / SAMPLE_RATE
    tail = rng.standard_normal((num_channels, len(time))) * np.exp(-6.9 * time / reverb_seconds)
    tail[:, : samples(0.012)] = 0.0
    tail *= ramp(len(time), 0.0, reverb_seconds * 0.2)
    return (tail / np.sqrt(np.sum(tail**2, axis=-1, keepdims=True))).astype(np.float32)


@lru_cache(maxsize=1)
def diffusers() -> np.ndarray:
    """Impulse responses of two different chains of Schroeder allpasses: same magnitude, unrelated phases."""
    pair = np.zeros((2, samples(0.4)), dtype=np.float32)
    for ear, delays in zip(pair, ((113, 337, 911), (173, 431, 1013)), strict=True):
        ear[0] = 1.0
        for delay in delays:
            numerator, denominator = np.zeros(delay + 1), np.zeros(delay + 1)
            numerator[[0, delay]], denominator[[0, delay]] = (-0.6, 1.0), (1.0, -0.6)
            ear[:] = signal.lfilter(numerator, denominator, ear)
    return pair


def active_level(audio: np.ndarray) -> float:
    """Root mean square of the loud 50 ms frames (95th percentile): (channels, samples) -> amplitude."""
    frame = SAMPLE_RATE // 20
    count = max(1, audio.shape[-1] // frame)
    power = np.mean(np.square(audio[:, : count * frame].reshape(len(audio), count, -1)), axis=(0, 2))
    return float(np.sqrt(np.percentile(power, 95)))


def course(shape: str, num_samples: int) -> np.ndarray:
    """Gain over time of a shape of `SHAPES`."""
    position = np.linspace(0.0, 1.0, num_samples, dtype=np.float32)
    if shape == "fade in":
        return position**2 + 0.003
    if shape == "fade out":
        return (1 - position) ** 2 + 0.003
    if shape == "approaching":
        return 10 ** (-1.4 * (1 - position))
    if shape == "receding":
        return 10 ** (-1.4 * position)
    if shape == "passing":
        return 1 / (1 + (6 * (position - 0.5)) ** 2)
    return np.ones(num_samples, dtype=np.float32)


def pan_gains(layer: Layer, num_samples: int) -> np.ndarray:
    """Gains of the two ears, (2, 1) or, for a sound passing from left to right, (2, samples)."""
    if layer.shape == "passing":
        angle = np.linspace(0.06, 0.94, num_samples, dtype=np.float32) * (np.pi / 2)
        gains = np.stack((np.cos(angle), np.sin(angle)))
        return gains[::-1] if layer.side == "right" else gains
    far = db_to_gain(-SIDE_DB)
    ears = {"left": (1.0, far), "right": (far, 1.0), "center": (0.71, 0.71), "wide": (0.71, 0.71)}
    return np.array(ears[layer.side], dtype=np.float32)[:, None]


def place(layer: Layer, audio: np.ndarray) -> np.ndarray:
    """Filter, reverberate, shape, pan and level a rendered layer: (1 or 2, samples) -> (2, samples)."""
    wide = layer.side == "wide"
    if not wide:
        audio = np.sum(audio, axis=0, keepdims=True)
    num_samples = audio.shape[-1]
    audio = audio * ramp(num_samples, 0.004, min(0.35, 0.2 * layer.seconds))
    reverb_seconds, wet = REVERB[layer.distance]
    size = fft_size(num_samples + samples(0.1))
    spectrum = rfft(audio, size)
    spectrum *= spectral_gain(size, BRIGHTNESS_SHAPES[layer.brightness]) * spectral_gain(
        size, DISTANCE_SHAPES[layer.distance]
    )
    if wide and len(audio) == 1:  # one source heard all around
        spectrum = spectrum * rfft(diffusers()[:, :size], size)
    response = rfft(room(reverb_seconds, len(audio))[:, :size], size)
    audio = irfft(spectrum * (1.0 + wet * response), size)[:, :num_samples]
    audio *= course(layer.shape, num_samples) * ramp(num_samples, 0.0, min(0.25, 0.1 * layer.seconds))
    audio = audio * pan_gains(layer, num_samples)
    target_db = LEVELS_DB[layer.loudness] + DISTANCE_DB[layer.distance]
    return (audio * (db_to_gain(target_db) / (active_level(audio) + 1e-9))).astype(np.float32)
