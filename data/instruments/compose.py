"""Composes: from the facts of a piece to the notes of each part.

A piece is made of phrases of four bars; where others accompany, the melody may enter after a bar or two; the bar before
the last one leads home, and the last one holds the tonic.
"""

from collections.abc import Callable

import numpy as np

from data.instruments.accompaniment import play_arpeggio, play_bass, play_chords, play_drums, play_harmony, play_piece
from data.instruments.grooves import METRES
from data.instruments.harmony import draw_chords, nearest, voice
from data.instruments.melody import play_melody
from data.instruments.piece import Part, Piece
from data.instruments.score import VELOCITIES, Note, Score, articulate, register_range
from data.instruments.table import ARPEGGIO, BASS, CHORDS, DRUMS, HARMONY, INSTRUMENTS, MELODY, PIECE

PLAYERS: dict[str, Callable[[Part, Score, np.random.Generator], list[Note]]] = {
    MELODY: play_melody,
    HARMONY: play_harmony,
    CHORDS: play_chords,
    ARPEGGIO: play_arpeggio,
    BASS: play_bass,
    PIECE: play_piece,
    DRUMS: play_drums,
}
"""What plays each role."""
SHORTEST_WITH_INTRODUCTION = 7
"""Bars of the shortest piece in which the accompaniment begins alone."""


def compose(piece: Piece, rng: np.random.Generator) -> list[list[Note]]:
    """Compose a clip: the notes of each of its parts, in beats from the beginning."""
    if piece.form != "piece":
        return [_exercise(piece)]
    chords = draw_chords(piece.key, piece.num_bars, rng) if piece.key is not None else []
    accompanied = len(piece.parts) > 1 or any(part.role == PIECE for part in piece.parts)
    introduced = accompanied and piece.num_bars >= SHORTEST_WITH_INTRODUCTION and rng.random() < 0.35
    score = Score(piece=piece, chords=chords, entry_bar=int(rng.integers(1, 3)) if introduced else 0)
    return [PLAYERS[part.role](part, score, rng) for part in piece.parts]


def _exercise(piece: Piece) -> list[Note]:
    """A note, a chord or a scale."""
    part = piece.parts[0]
    velocity, bar = VELOCITIES[piece.dynamics] + 0.04, METRES[piece.metre]
    if piece.form == "note":
        assert piece.midi is not None
        midis = (piece.midi,)
    elif piece.form == "chord":
        midis = chord_notes(piece)
    else:
        return _scale(piece, velocity)
    struck = [Note(float(bar * i), float(bar), midi, velocity) for i in range(piece.num_bars) for midi in midis]
    return articulate(part, struck)


def chord_notes(piece: Piece) -> tuple[int, ...]:
    """The notes of a single chord: the triad on the tonic in the middle of the part's register."""
    assert piece.key is not None
    low, high = register_range(piece.parts[0])
    return voice(tuple(piece.key.tonic + tone for tone in piece.key.chord(0)), (low + high) // 2)


def _scale(piece: Piece, velocity: float) -> list[Note]:
    """A scale up and down, a note a beat, as often as it fits into the bars; the last note is held."""
    assert piece.key is not None
    part = piece.parts[0]
    steps = scale_steps(piece)
    cycle = [*range(steps), *range(steps, 0, -1)]
    degrees = [*cycle * max(1, (piece.num_beats - 1) // len(cycle)), 0]
    instrument = INSTRUMENTS[part.instrument]
    low, high = register_range(part)
    tonic = nearest((piece.key.tonic,), (low + high) / 2 - 6)
    while tonic < instrument.low:
        tonic += 12
    while tonic + 12 > instrument.high:
        tonic -= 12
    notes = [Note(float(i), 1.0, tonic + piece.key.note(degree), velocity) for i, degree in enumerate(degrees)]
    end = Note(notes[-1].start, piece.num_beats - notes[-1].start, notes[-1].midi, velocity)
    return [*articulate(part, notes[:-1]), end]


def scale_steps(piece: Piece) -> int:
    """Notes of a piece's scale within an octave."""
    key = piece.key
    assert key is not None
    return next(degree for degree in range(1, 13) if key.note(degree) == 12)
