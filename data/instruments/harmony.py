"""Keys, modes and chords.

A scale degree counts from 0 (the tonic) through the scale and on through the octaves. A chord is built on a degree of
the mode's seven-note scale; a melody may use fewer notes (pentatonic, blues).
"""

from dataclasses import dataclass

import numpy as np

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The notes of a key and the chords that go well in it."""

    name: str
    scale: tuple[int, ...]
    """Semitones above the tonic of the melody's notes."""
    chord_scale: tuple[int, ...]
    """Semitones of the seven notes that chords are built from."""
    progressions: tuple[tuple[int, ...], ...]
    """Chords of four bars, as degrees."""
    cadence: int
    """Degree of the chord before the last one."""
    weight: float


def _mode(
    name: str,
    scale: tuple[int, ...],
    progressions: tuple[tuple[int, ...], ...],
    cadence: int = 4,
    weight: float = 1.0,
    chord_scale: tuple[int, ...] | None = None,
) -> Mode:
    return Mode(
        name=name,
        scale=scale,
        chord_scale=chord_scale or scale,
        progressions=progressions,
        cadence=cadence,
        weight=weight,
    )


_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_IN_MAJOR = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (0, 2, 3, 4), (0, 3, 0, 4), (0, 5, 1, 4), (3, 4, 2, 5))
_IN_MINOR = ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 5, 3, 4), (0, 3, 6, 2), (0, 2, 5, 6))

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        _mode("major", _MAJOR, _IN_MAJOR, weight=7.0),
        _mode("minor", _MINOR, _IN_MINOR, weight=6.0),
        _mode("harmonic minor", (0, 2, 3, 5, 7, 8, 11), ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 0, 4)), weight=0.7),
        _mode("dorian", (0, 2, 3, 5, 7, 9, 10), ((0, 3, 0, 3), (0, 3, 6, 0), (0, 1, 3, 0)), cadence=3),
        _mode("phrygian", (0, 1, 3, 5, 7, 8, 10), ((0, 1, 0, 1), (0, 1, 2, 1), (0, 6, 1, 0)), cadence=1, weight=0.6),
        _mode("lydian", (0, 2, 4, 6, 7, 9, 11), ((0, 1, 0, 1), (0, 1, 4, 0), (0, 5, 1, 0)), cadence=1, weight=0.6),
        _mode("mixolydian", (0, 2, 4, 5, 7, 9, 10), ((0, 6, 3, 0), (0, 3, 6, 0), (0, 6, 0, 3)), cadence=6),
        _mode("major pentatonic", (0, 2, 4, 7, 9), _IN_MAJOR, weight=0.7, chord_scale=_MAJOR),
        _mode("minor pentatonic", (0, 3, 5, 7, 10), _IN_MINOR, weight=0.7, chord_scale=_MINOR),
        _mode("blues", (0, 3, 5, 6, 7, 10), ((0, 3, 0, 4), (0, 0, 3, 0), (0, 3, 4, 0)), weight=0.6,
              chord_scale=(0, 2, 4, 5, 7, 9, 10)),
    )
}  # fmt: skip
"""Every mode by name."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A tonic (pitch class, 0 = C) and a mode."""

    tonic: int
    mode: str

    def __str__(self) -> str:
        return f"{TONICS[self.tonic]} {self.mode}"

    def note(self, degree: int) -> int:
        """Semitones of a degree of the melody's scale above the tonic; degrees run on through the octaves."""
        scale = MODES[self.mode].scale
        octave, step = divmod(degree, len(scale))
        return 12 * octave + scale[step]

    def chord(self, degree: int, seventh: bool = False) -> tuple[int, ...]:
        """Semitones above the tonic of the triad, or seventh chord, on a degree of the mode's seven-note scale.

        In minor the chord on the fifth degree is major, as it leads home.
        """
        scale = MODES[self.mode].chord_scale
        tones = [12 * ((degree + k) // 7) + scale[(degree + k) % 7] for k in (0, 2, 4, 6)[: 4 if seventh else 3]]
        if self.mode == "minor" and degree % 7 == 4:
            tones[1] = tones[0] + 4
        return tuple(tones)


def draw_chords(key: Key, num_bars: int, rng: np.random.Generator) -> list[int]:
    """Draw one chord for each bar, as degrees: a progression repeated, a cadence, and the tonic in the last bar."""
    mode = MODES[key.mode]
    first = mode.progressions[rng.integers(len(mode.progressions))]
    second = mode.progressions[rng.integers(len(mode.progressions))]
    phrases = (first, first, second, first)
    chords = [phrases[bar // 4 % 4][bar % 4] for bar in range(num_bars)]
    chords[-1] = 0
    if num_bars > 2:
        chords[-2] = mode.cadence
    return chords


def nearest(pitch_classes: tuple[int, ...], midi: float) -> int:
    """The MIDI note nearest to `midi` whose pitch class is one of those given."""
    candidates = [pc % 12 + 12 * octave for pc in pitch_classes for octave in range(11)]
    return min(candidates, key=lambda note: (abs(note - midi), note))


def voice(pitch_classes: tuple[int, ...], center: int) -> tuple[int, ...]:
    """Place a chord's notes as near as possible to a MIDI note, in ascending order: the close voicing around it."""
    return tuple(sorted(nearest((pc,), center) for pc in pitch_classes))
