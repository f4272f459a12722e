"""What composing works with: notes, and what all parts of a piece share."""

import math
from dataclasses import dataclass, replace

import numpy as np

from data.instruments.grooves import GROOVES, METRES, STROKES, Groove
from data.instruments.harmony import Key
from data.instruments.piece import Part, Piece
from data.instruments.table import INSTRUMENTS, Instrument

VELOCITIES = {"soft": 0.36, "medium": 0.62, "loud": 0.88}
SOUNDED = {"staccato": 0.35, "normal": 0.88, "legato": 1.0}
"""How much of a note's length is sounded."""


@dataclass(frozen=True)
class Note:
    """One note."""

    start: float
    """In beats from the beginning."""
    length: float
    """In beats."""
    midi: int
    """MIDI number, or percussion key."""
    velocity: float
    """0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What all parts of a piece share."""

    piece: Piece
    chords: list[int]
    """The chord of each bar, as a degree of the key."""
    entry_bar: int
    """The bar in which the melody enters."""

    @property
    def key(self) -> Key:
        assert self.piece.key is not None
        return self.piece.key

    @property
    def groove(self) -> Groove | None:
        return None if self.piece.groove is None else GROOVES[self.piece.groove]

    @property
    def beats(self) -> int:
        """Beats of a bar."""
        return METRES[self.piece.metre]

    @property
    def last_bar(self) -> int:
        return self.piece.num_bars - 1

    def chord(self, bar: int) -> tuple[int, ...]:
        """Notes of a bar's chord, root first, in the lowest octave (the tonic is MIDI note 0 to 11)."""
        return tuple(self.key.tonic + tone for tone in self.key.chord(self.chords[bar]))

    def velocity(self, rng: np.random.Generator, accent: float = 0.0) -> float:
        """A velocity of the piece's dynamics, slightly uneven as a player's are."""
        return float(np.clip(VELOCITIES[self.piece.dynamics] + accent + rng.normal(0.0, 0.03), 0.12, 1.0))


def register_range(part: Part) -> tuple[int, int]:
    """Lowest and highest note of a part in its register: about a lower, middle or upper half of what it can play."""
    instrument = INSTRUMENTS[part.instrument]
    span = instrument.high - instrument.low
    width = min(span, max(14, round(0.45 * span)))
    low = instrument.low + {"low": 0, "middle": (span - width) // 2, "high": span - width}[part.register]
    return low, low + width


def instrument_of(part: Part) -> Instrument:
    """The instrument of a pitched part."""
    return INSTRUMENTS[part.instrument]


def articulate(part: Part, notes: list[Note], but_from: float = math.inf) -> list[Note]:
    """Sound each note for the share of its length that the part's articulation says; from a beat on, for all of it."""
    share = SOUNDED[part.articulation]
    return [replace(note, length=note.length * share) if note.start < but_from else note for note in notes]


def strokes(pattern: str, beats: int, bar: int) -> list[tuple[float, float, float]]:
    """The strokes of a groove's pattern in one bar: (beat within the bar, beats to the next stroke, velocity)."""
    num_bars = 2 if len(pattern) >= 8 * beats else 1
    steps = len(pattern) // num_bars
    own = pattern[bar % num_bars * steps :][:steps]
    at = [step for step in range(steps) if own[step] != "."]
    ends = [*at[1:], steps]
    return [
        (step * beats / steps, (end - step) * beats / steps, STROKES[own[step]])
        for step, end in zip(at, ends, strict=False)
    ]
