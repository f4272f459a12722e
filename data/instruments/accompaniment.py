"""What accompanies: chords, arpeggios, bass and drums, and a melody that accompanies itself."""

from dataclasses import replace

import numpy as np

from data.instruments.grooves import CRASH, HIGH_TOM, KICK, LOW_TOM, MIDDLE_TOM, SNARE
from data.instruments.harmony import nearest, voice
from data.instruments.melody import closing_notes, melody_notes
from data.instruments.piece import Part
from data.instruments.score import Note, Score, articulate, instrument_of, register_range, strokes

FIGURES = ((0, 1, 2, 1), (0, 1, 2, 3), (2, 1, 0, 1), (0, 2, 1, 2), (3, 2, 1, 0), (0, 1, 2, 3, 4, 3, 2, 1))
"""Broken chords: which of the chord's notes, counted upwards, comes next."""
BEATS = {"4/4": ("X...x...x...x...", "X.......x.......", "X...x.x.x...x.x."), "3/4": ("X...x...x...", "X..........."),
         "6/8": ("X...x.X...x.", "X.....x.....", "x.x.x.X.x.x.")}  # fmt: skip
"""Rhythms of chords without drums."""
STRUM_BEATS = 0.02
"""Between the strings of a strummed chord."""


def play_chords(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """Chords: held through each bar, or in a rhythm (the groove's, where there are drums)."""
    instrument = instrument_of(part)
    low, high = register_range(part)
    own = BEATS[score.piece.metre]
    pattern = score.groove.chords if score.groove else own[rng.integers(len(own))]
    held = instrument.shortest_seconds > 0.3 or (
        not score.groove and rng.random() < (0.6 if instrument.sustained else 0.2)
    )
    strum = STRUM_BEATS if instrument.family == "guitar" else 0.0
    seventh = score.groove is not None and score.groove.name in ("swing jazz", "jazz waltz", "bossa nova")
    notes = []
    for bar in range(score.piece.num_bars):
        tones = score.chord(bar)
        if seventh and bar < score.last_bar:
            tones = tuple(score.key.tonic + tone for tone in score.key.chord(score.chords[bar], seventh=True))
        tones = tuple(midi for midi in voice(tones, (low + high) // 2) if instrument.low <= midi <= instrument.high)
        whole = held or bar == score.last_bar
        for beat, length, stroke in [(0.0, float(score.beats), 0.9)] if whole else strokes(pattern, score.beats, bar):
            struck = [
                Note(bar * score.beats + beat + strum * i, length - strum * i, midi, stroke * score.velocity(rng))
                for i, midi in enumerate(tones)
            ]
            notes += struck if whole else articulate(part, struck)
    return notes


def play_harmony(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """An inner voice: held notes of the chord, each as near as possible to the one before."""
    low, high = register_range(part)
    midi = (low + high) // 2
    half = float(score.beats if score.beats == 3 else score.beats // 2)
    notes = []
    for bar in range(score.piece.num_bars):
        last = bar == score.last_bar
        for beat in (0.0,) if last or half == score.beats else (0.0, half):
            tones = score.chord(bar)
            midi = nearest(tones[1:] if beat else tones, midi)
            midi += 12 if midi < low else -12 if midi > high else 0
            length = float(score.beats) if last else half
            notes.append(Note(bar * score.beats + beat, length, midi, score.velocity(rng, -0.08)))
    return articulate(part, notes, but_from=score.last_bar * score.beats)


def play_arpeggio(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """Broken chords in eighths (or in quarters, where eighths are too fast for the instrument)."""
    instrument = instrument_of(part)
    step = 1 / 3 if score.piece.metre == "6/8" else 0.5
    while step * score.piece.beat_seconds < max(0.13, instrument.shortest_seconds):
        step *= 2
    figure = FIGURES[rng.integers(len(FIGURES))]
    low, high = register_range(part)
    notes = []
    for bar in range(score.last_bar):
        ladder = _ladder(score.chord(bar), low, high)
        for i in range(round(score.beats / step)):
            midi = ladder[figure[i % len(figure)] % len(ladder)]
            notes.append(Note(bar * score.beats + i * step, step, midi, score.velocity(rng, 0.08 if i == 0 else 0.0)))
    root = _ladder(score.chord(score.last_bar), low, high)[0]
    return [*articulate(part, notes), *closing_notes(part, score, root, rng)]


def play_bass(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """A bass line: the groove's pattern, walking quarters, or root and fifth."""
    low, high = register_range(part)
    walking = score.groove.walking if score.groove else rng.random() < 0.25
    pattern = score.groove.bass if score.groove else BEATS[score.piece.metre][0]
    notes = []
    for bar in range(score.last_bar):
        root, third, fifth = (_fit(tone, low, high) for tone in score.chord(bar)[:3])
        following = _fit(score.chord(bar + 1)[0], low, high)
        approach = following + (1 if root > following else -1)
        line = [root, third, fifth, approach] if walking else [root, root, fifth, root]
        for beat, length, stroke in strokes(pattern, score.beats, bar):
            midi = line[min(3, int(beat * 4 / score.beats))]
            if walking and score.beats == 3:
                midi = (root, fifth, approach)[int(beat)]
            notes.append(Note(bar * score.beats + beat, length, midi, stroke * score.velocity(rng, 0.1)))
    tonic = _fit(score.key.tonic, low, high)
    return [*articulate(part, notes), *closing_notes(part, score, tonic, rng)]


def play_piece(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:
    """A melody with its own accompaniment below it, chords or arpeggio, as a pianist or guitarist plays."""
    low, high = instrument_of(part).low, instrument_of(part).high
    shift = {"low": -5, "middle": 0, "high": 5}[part.register]
    split = min(high - 17, max(low + 15, 60 + shift))
    melody = melody_notes(part, score, rng, (split, min(high, split + 17)), score.entry_bar)
    below = play_arpeggio if rng.random() < 0.5 else play_chords
    lower = below(replace(part, articulation="normal"), score, rng)
    lower = [
        replace(note, midi=_fit(note.midi % 12, split - 14, split - 2), velocity=0.75 * note.velocity) for note in lower
    ]
    melody = articulate(part, melody, but_from=score.last_bar * score.beats)
    return sorted([*melody, *lower], key=lambda note: note.start)


def play_drums(part: Part, score: Score, rng: np.random.Generator) -> list[Note]:  # noqa: ARG001 as all players
    """The groove, with a fill now and then and a last stroke; a crash marks the beginning of every eight bars."""
    groove = score.groove
    assert groove is not None
    notes = []
    for bar in range(score.last_bar):
        start = bar * score.beats
        fill = bar > 0 and (bar % 8 == 7 or bar == score.last_bar - 1) and rng.random() < 0.6
        fill_from = score.beats - 1 if fill else score.beats
        for key, pattern in groove.drums.items():
            notes += [
                Note(start + beat, 0.2, key, stroke * score.velocity(rng, 0.15))
                for beat, _, stroke in strokes(pattern, score.beats, bar)
                if beat < fill_from
            ]
        if fill:
            toms = (SNARE, HIGH_TOM, MIDDLE_TOM, LOW_TOM)
            notes += [
                Note(start + fill_from + 0.25 * i, 0.2, tom, score.velocity(rng, 0.1)) for i, tom in enumerate(toms)
            ]
        if bar % 8 == 0 and bar > 0:
            notes.append(Note(start, 0.5, CRASH, score.velocity(rng)))
    end = float(score.last_bar * score.beats)
    return [*notes, *(Note(end, 1.0, key, score.velocity(rng, 0.1)) for key in (KICK, CRASH))]


def _ladder(chord: tuple[int, ...], low: int, high: int) -> list[int]:
    """A chord's notes from its root upwards, within a span and about an octave and a half."""
    root = _fit(chord[0], low, high - 7 if high - low > 12 else high)
    notes = [root - chord[0] + tone + octave for octave in (0, 12) for tone in chord]
    fitting = [midi for midi in notes if midi <= high][:5]
    return fitting or [root]


def _fit(midi: int, low: int, high: int) -> int:
    """The lowest note of a pitch class within a span (at least its lowest note where it is narrower than an octave)."""
    note = low + (midi - low) % 12
    return note if note <= high or note - 12 < low else note - 12
