"""Melodies: two motifs of rhythm and contour that follow the chords of the piece."""

from dataclasses import dataclass

import numpy as np

from data.instruments.harmony import MODES, nearest
from data.instruments.piece import Part
from data.instruments.score import Note, Score, articulate, instrument_of, register_range

_THIRD = 1 / 3
RHYTHMS: dict[str, tuple[tuple[float, ...], ...]] = {
    "4/4": (
        (1, 1, 1, 1), (1, 1, 2), (1.5, 0.5, 1, 1), (0.5, 0.5, 1, 1, 1), (2, 1, 1), (1, 0.5, 0.5, 2), (2, 2), (3, 1),
        (0.5, 0.5, 0.5, 0.5, 1, 1), (1.5, 0.5, 1.5, 0.5), (1, 1, 0.5, 0.5, 1), (1, 0.5, 0.5, 1, 0.5, 0.5), (4,),
    ),
    "3/4": ((1, 1, 1), (2, 1), (1.5, 0.5, 1), (1, 0.5, 0.5, 1), (0.5, 0.5, 1, 1), (1, 2), (0.5,) * 4 + (1,), (3,)),
    "6/8": (
        (2 * _THIRD, _THIRD, 2 * _THIRD, _THIRD), (_THIRD, _THIRD, _THIRD, 1), (1, 2 * _THIRD, _THIRD), (1, 1),
        (_THIRD,) * 6, (2 * _THIRD, _THIRD, 1), (2,),
    ),
}  # fmt: skip
"""Rhythms of a bar: lengths in beats."""
FORM = ("A", "B", "A", "B'")
"""Motifs of the bars of a phrase; the mark stands for a closing bar of longer notes."""


@dataclass(frozen=True)
class Motif:
    """A bar of melody, apart from its chord."""

    lengths: tuple[float, ...]
    contour: tuple[int, ...]
    """Scale steps from the first note."""


def draw_motif(score: Score, part: Part, rng: np.random.Generator, longest: bool = False) -> Motif:
    """Draw a motif that suits the instrument at the piece's tempo: the shortest note speaks, the longest one rings."""
    instrument, beat_seconds = instrument_of(part), score.piece.beat_seconds
    rhythms = [
        rhythm for rhythm in RHYTHMS[score.piece.metre] if min(rhythm) * beat_seconds >= instrument.shortest_seconds
    ]
    rhythms = rhythms or [RHYTHMS[score.piece.metre][-1]]
    ringing = max(instrument.ring_seconds / beat_seconds, min(map(max, rhythms)))
    rhythms = [rhythm for rhythm in rhythms if max(rhythm) <= ringing]
    if longest:
        rhythms = [rhythm for rhythm in rhythms if len(rhythm) <= max(3, min(map(len, rhythms)))]
    lengths = rhythms[rng.integers(len(rhythms))]
    steps = rng.choice((-2, -1, -1, 0, 1, 1, 2, 3), size=len(lengths) - 1)
    return Motif(lengths, (0, *(int(step) for step in np.clip(np.cumsum(steps), -4, 5))))


def melody_notes(
    part: Part, score: Score, rng: np.random.Generator, span: tuple[int, int], entry_bar: int = 0
) -> list[Note]:
    """Compose a melody within a span of MIDI notes; it ends on the tonic, held through the last bar."""
    motifs = {"A": draw_motif(score, part, rng), "B": draw_motif(score, part, rng)}
    motifs["B'"] = Motif((draw := draw_motif(score, part, rng, longest=True)).lengths, draw.contour)
    low, high = span
    home = nearest((score.key.tonic,), (low + high) / 2)
    notes, last = [], float(home)
    for bar in range(entry_bar, score.last_bar):
        motif = motifs[FORM[bar % 4]]
        start = float(bar * score.beats)
        chord = score.chord(bar)
        anchor = nearest(chord, (last + home) / 2)
        for length, step in zip(motif.lengths, motif.contour, strict=True):
            midi = _step(score, anchor, step)
            on_beat = abs(start - round(start)) < 1e-6
            if on_beat and rng.random() < 0.75:
                midi = nearest(chord, midi)
            midi = _fold(midi, low, high)
            accent = 0.08 if abs(start - bar * score.beats) < 1e-6 else 0.0
            notes.append(Note(start, length, midi, score.velocity(rng, accent)))
            start += length
            last = float(midi)
    final = _fold(nearest((score.key.tonic,), last), low, high)
    return [*notes, *closing_notes(part, score, final, rng)]


def closing_notes(part: Part, score: Score, midi: int, rng: np.random.Generator) -> list[Note]:
    """The last bar: its note held, or struck again in the middle where it would have died away."""
    start, beats = float(score.last_bar * score.beats), float(score.beats)
    if beats * score.piece.beat_seconds <= instrument_of(part).ring_seconds:
        return [Note(start, beats, midi, score.velocity(rng))]
    half = float(-(-score.beats // 2))
    return [
        Note(start, half, midi, score.velocity(rng)),
        Note(start + half, beats - half, midi, score.velocity(rng, -0.08)),
    ]


def play_melody(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """A melody alone."""
    notes = melody_notes(part, score, rng, register_range(part), score.entry_bar)
    return articulate(part, notes, but_from=score.last_bar * score.beats)


def _step(score: Score, anchor: int, steps: int) -> int:
    """The note `steps` notes of the melody's scale above (below) an anchor, which need not be in the scale."""
    scale = MODES[score.key.mode].scale
    degrees = [score.key.tonic + 12 * octave + tone for octave in range(-1, 11) for tone in scale]
    at = min(range(len(degrees)), key=lambda i: abs(degrees[i] - anchor))
    return anchor if steps == 0 else degrees[at + steps]


def _fold(midi: int, low: int, high: int) -> int:
    """Bring a note into a span by octaves."""
    while midi < low:
        midi += 12
    while midi > high:
        midi -= 12
    return midi
