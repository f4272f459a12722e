"""Clips as plans: which recordings sound when, how loud and from where; and the clips rendered from them.

audio (2, samples) float32 at 44,100 Hz.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data.audio import SAMPLE_RATE
from data.recordings.table import Recording

Group = Literal["music", "instruments", "effects"]

_FADE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Event:
    """One recording sounding."""

    recording: Recording
    start_seconds: float
    gain: float = 1.0
    """Factor."""
    pan: float = 0.0
    """-1 left, 0 as recorded, 1 right; constant power, for recordings in mono."""
    stop_seconds: float | None = None
    """When it is damped, counted like the start; None: it rings out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One clip."""

    name: str
    group: Group
    captions: list[str]
    events: list[Event]
    peak_db: float = -3.0
    """Largest sample of the clip (dBFS)."""
    tail_seconds: float = 0.0
    """Silence after the last sound."""
    facts: dict[str, float | str] = field(default_factory=dict)
    """What is known exactly, such as the tempo."""


def render(plan: Plan, read: Callable[[Recording], np.ndarray]) -> np.ndarray:
    """Mix a plan's events: (2, samples).

    Args:
        read: gives a recording's audio (2, samples).
    """
    pieces = [(round(event.start_seconds * SAMPLE_RATE), _sound(event, read(event.recording))) for event in plan.events]
    end = max(start + sound.shape[1] for start, sound in pieces)
    mix = np.zeros((2, end + round(plan.tail_seconds * SAMPLE_RATE)), dtype=np.float32)
    for start, sound in pieces:
        mix[:, start : start + sound.shape[1]] += sound
    return mix * (10 ** (plan.peak_db / 20) / max(float(np.abs(mix).max()), 1e-6))


def _sound(event: Event, audio: np.ndarray) -> np.ndarray:
    """Place one recording: cut at its stop, panned, at its gain."""
    if event.stop_seconds is not None:
        length = round((event.stop_seconds - event.start_seconds) * SAMPLE_RATE)
        if length < audio.shape[1]:
            fade = min(length, round(_FADE_SECONDS * SAMPLE_RATE))
            audio = audio[:, :length].copy()
            audio[:, length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    if event.pan:
        angle = (event.pan + 1) * np.pi / 4
        sides = np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32)
        audio = audio.mean(axis=0, keepdims=True) * sides
    return audio * np.float32(event.gain)
