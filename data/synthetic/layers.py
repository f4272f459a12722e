"""What a sound of the corpus is: `Kind` (what can vary) and `Layer` (the values drawn for one sound of one clip)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np

SAMPLE_RATE = 44_100
NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
TEMPOS_BPM = tuple(range(60, 181, 10))
SIDES = ("left", "center", "right", "wide")
BRIGHTNESSES = ("dark", "neutral", "bright")
LOUDNESSES = ("quiet", "medium", "loud")
DISTANCES = ("near", "medium", "distant")
RATES = ("low", "medium", "high")
SHAPES = ("steady", "fade in", "fade out", "approaching", "receding", "passing")


def midi_to_hz(midi: float) -> float:
    """Frequency in Hz of a MIDI note number (69 = A4 = 440 Hz)."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def midi_to_name(midi: int) -> str:
    """Name of a MIDI note number: 69 -> "A4"."""
    return f"{NOTE_NAMES[midi % 12]}{midi // 12 - 1}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One sound of a clip with every audible fact about it; None where a fact does not apply to the kind."""

    kind: str
    """Name in `KINDS`."""
    start_seconds: float = 0.0
    """When the sound starts in the clip."""
    seconds: float
    """How long it lasts."""
    tempo_bpm: int | None = None
    """Beats (ticks, steps, hits) per minute, a multiple of ten."""
    midi: int | None = None
    """The note: MIDI number of the pitch, or of the tonic where the kind plays in a key."""
    mode: str | None = None
    """`major` or `minor` where the kind plays in a key."""
    rate: str | None = None
    """`low`, `medium` or `high`: density, intensity or speed, whatever the kind understands by it."""
    rate_hz: float | None = None
    """Events, pulses or cycles per second that `rate` stands for."""
    timbre: str | None = None
    """The variant of the kind: "flute-like", "gravel", ..."""
    side: str = "center"
    """One of `SIDES`; where a passing sound comes from."""
    brightness: str = "neutral"
    loudness: str = "medium"
    distance: str = "medium"
    shape: str = "steady"
    """Course in time, one of `SHAPES`."""
    stated: tuple[str, ...] = field(default=())
    """Facts that the caption states."""

    @property
    def num_samples(self) -> int:
        return round(self.seconds * SAMPLE_RATE)

    @property
    def pitch_hz(self) -> float | None:
        return None if self.midi is None else midi_to_hz(self.midi)

    @property
    def beat_seconds(self) -> float:
        assert self.tempo_bpm is not None
        return 60.0 / self.tempo_bpm

    def to_metadata(self) -> dict:
        """The facts as plain JSON values; what does not apply is left out."""
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        facts["stated"] = list(self.stated)
        if self.shape == "passing":
            facts["motion"], facts["side"] = f"{self.side} to {'left' if self.side == 'right' else 'right'}", "center"
        midi, mode = facts.pop("midi", None), facts.get("mode")
        if midi is not None and mode is not None:
            facts["key"] = f"{NOTE_NAMES[midi % 12]} {facts.pop('mode')}"
        elif midi is not None:
            facts["pitch"], facts["pitch_hz"] = midi_to_name(midi), round(midi_to_hz(midi), 3)
        return facts


Renderer = Callable[[Layer, np.random.Generator], np.ndarray]
"""Renders a layer to (1 or 2, samples) float32, any level; two channels are independent (decorrelated) sources."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A sound the corpus can make: its renderer, and which facts vary."""

    name: str
    render: Renderer
    group: str
    """`nature`, `machine`, `beat` or `music`; decides which kinds are layered together."""
    tempo: tuple[int, int] | None = None
    """Lowest and highest tempo in bpm."""
    midi: tuple[int, int] | None = None
    """Lowest and highest note."""
    keyed: bool = False
    """Plays in a major or minor key, whose tonic is `midi`."""
    rates_hz: tuple[float, float, float] | None = None
    """Events per second of the rates low, medium, high."""
    timbres: tuple[str, ...] = ()
    moves: bool = False
    """May approach, recede or pass by."""
    bed: bool = False
    """A lasting background, under which other sounds are layered."""
    colored: bool = True
    """Comes in dark and bright versions."""
    min_seconds: float = 2.0
    weight: float = 1.0
    """How often the kind is drawn, relative to the others."""


def samples(seconds: float) -> int:
    """Whole samples in a duration."""
    return math.ceil(seconds * SAMPLE_RATE)
