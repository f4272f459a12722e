"""Rhythms played with one-shots: strummed guitar, drum kits and tabla, at a tempo that is known exactly.

A pattern has a character for each step of a sixteenth (drums) or an eighth (strums): "x" hit, "o" soft hit, "D" down,
"U" up, "-" nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.recordings.plans import Event, Plan
from data.recordings.table import Recording

NOTES = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "B flat", "B")
STRUM_PATTERNS = ("D-DU-UDU", "D-D-D-D-", "D-DUD-DU", "DUDUDUDU", "D---D-DU", "D--U-UD-", "D-DUDU", "D-D-D-")
PROGRESSIONS = {
    "major": ((0, "major"), (5, "major"), (2, "minor"), (0, "major")),
    "major 2": ((0, "major"), (9, "minor"), (2, "minor"), (4, "minor")),
    "major 3": ((0, "major"), (7, "major"), (9, "minor"), (5, "major")),
    "minor": ((0, "minor"), (5, "minor"), (7, "minor"), (0, "minor")),
    "minor 2": ((0, "minor"), (8, "major"), (10, "major"), (7, "minor")),
    "minor 3": ((0, "minor"), (3, "major"), (10, "major"), (5, "minor")),
    "minor 4": ((0, "minor"), (3, "major"), (5, "minor"), (7, "minor")),
}
"""Chords in semitones above the key note."""


@dataclass(frozen=True)
class Groove:
    """A bar for drums."""

    name: str
    tempo_bpm: tuple[int, int]
    parts: dict[str, str]
    """Piece -> pattern; 16 steps, or 12 in a bar of three."""
    swing: float = 0.0
    """How late every second step comes, in steps."""


GROOVES = (
    Groove("rock", (90, 140), {"kick": "x-----x-x-------", "snare": "----x-------x---", "hat": "x-x-x-x-x-x-x-x-"}),
    Groove(
        "four on the floor",
        (115, 132),
        {"kick": "x---x---x---x---", "clap": "----x-------x---", "open": "--x---x---x---x-"},
    ),
    Groove("disco", (108, 124), {"kick": "x---x---x---x---", "snare": "----x-------x---", "hat": "x-oxx-oxx-oxx-ox"}),
    Groove(
        "hip-hop", (76, 98), {"kick": "x--x--x---x-----", "snare": "----x-------x---", "hat": "x-x-x-x-x-x-x-xo"}, 0.3
    ),
    Groove("funk", (92, 112), {"kick": "x-x---x---x--x--", "snare": "----x--o-o--x---", "hat": "xoxoxoxoxoxoxoxo"}),
    Groove(
        "bossa nova", (110, 150), {"kick": "x---x-x-x---x-x-", "cowbell": "x--x--x---x--x--", "hat": "xoxoxoxoxoxoxoxo"}
    ),
    Groove(
        "reggae one drop",
        (68, 84),
        {"kick": "--------x-------", "snare": "--------x-------", "hat": "x-x-x-x-x-x-x-x-"},
        0.2,
    ),
    Groove(
        "half-time", (120, 150), {"kick": "x-----x---------", "snare": "--------x-------", "ride": "x---x---x---x---"}
    ),
    Groove("waltz", (88, 150), {"kick": "x-----------", "snare": "----o---o---", "hat": "x---x---x---"}),
    Groove("train", (100, 130), {"kick": "x---x---x---x---", "snare": "ooxoooxoooxoooxx"}),
    Groove(
        "tom-tom",
        (84, 120),
        {"kick": "x-------x-------", "low tom": "x--x----x--x----", "high tom": "------x-------xx"},
    ),
    Groove(
        "shuffle", (80, 120), {"kick": "x-------x-------", "snare": "----x-------x---", "hat": "x-xxx-xxx-xxx-xx"}, 0.6
    ),
    Groove("techno", (125, 142), {"kick": "x---x---x---x---", "hat": "--x---x---x---x-", "open": "--------------x-"}),
)
TABLA = Groove(
    "tabla",
    (70, 130),
    {"low": "x-----x-----x---", "ring": "--x-------x-----", "high": "----x---x-----x-", "dry": "---o-o-o-o-o-o-o"},
)
_LEVEL = {"x": 0.0, "o": -9.0}  # dB
_BARS = (4, 8)


def pool(recordings: Iterable[Recording], kind: str) -> dict[str, dict[str, list[Recording]]]:
    """Sort one-shots by their role's two parts: {"A minor": {"down": [...], "up": [...]}}."""
    sorted_by: dict[str, dict[str, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for recording in recordings:
        if recording.kind == kind:
            first, second = recording.role.split("/")
            sorted_by[first][second].append(recording)
    return sorted_by


def plan_strumming(
    chords: Mapping[str, Mapping[str, list[Recording]]], name: str, generator: np.random.Generator
) -> Plan:
    """Strum one chord, or a progression of those in `chords`: chord -> "down", "up" -> recordings."""
    key, bars = _choose_chords(chords, generator)
    pattern = str(generator.choice(STRUM_PATTERNS))
    tempo = int(generator.integers(66, 140, endpoint=True))
    eighth = 30 / tempo
    strokes = [(index, stroke) for index, stroke in enumerate(pattern * len(bars)) if stroke != "-"]
    events = []
    for position, (step, stroke) in enumerate(strokes):
        takes = chords[bars[step // len(pattern)]]
        recording = _draw(takes["down" if stroke == "D" and takes["down"] else "up"] or takes["down"], generator)
        following = strokes[position + 1][0] * eighth if position + 1 < len(strokes) else None
        gain = 10 ** ((generator.uniform(-4, 0) - 3 * (stroke == "U")) / 20)
        start = step * eighth + float(generator.uniform(0, 0.012))
        events.append(Event(recording=recording, start_seconds=start, gain=gain, stop_seconds=following))
    facts: dict[str, float | str] = {"tempo": tempo, "key": key, "beats": 3 if len(pattern) == 6 else 4}
    captions = _strum_captions(key, list(dict.fromkeys(bars)), tempo, three=len(pattern) == 6)
    peak_db = float(generator.uniform(-6, -1))
    return Plan(name=name, group="instruments", captions=captions, events=events, peak_db=peak_db, facts=facts)


def plan_drums(
    kits: Mapping[str, Mapping[str, list[Recording]]], name: str, generator: np.random.Generator
) -> Plan | None:
    """Play a groove on a kit: kit -> piece -> recordings; None where no kit has the pieces of any groove."""
    choices = [(kit, groove) for kit in sorted(kits) for groove in _playable(kits[kit], kit)]
    if not choices:
        return None
    kit, groove = choices[generator.integers(len(choices))]
    tempo = int(generator.integers(*groove.tempo_bpm, endpoint=True))
    sixteenth = 15 / tempo
    drums = {piece: _draw(kits[kit][piece], generator) for piece in groove.parts}
    length = len(next(iter(groove.parts.values())))
    events = []
    for bar in range(int(generator.integers(*_BARS, endpoint=True))):
        for piece, pattern in groove.parts.items():
            for step, hit in enumerate(pattern):
                if hit == "-":
                    continue
                start = (bar * length + step + groove.swing * (step % 2)) * sixteenth
                gain = 10 ** ((_LEVEL[hit] + generator.uniform(-2, 0)) / 20)
                events.append(Event(recording=drums[piece], start_seconds=start, gain=gain))
    facts: dict[str, float | str] = {"tempo": tempo, "groove": groove.name, "beats": length // 4}
    peak_db = float(generator.uniform(-6, -1))
    captions = _drum_captions(kit, groove.name, tempo)
    return Plan(name=name, group="instruments", captions=captions, events=events, peak_db=peak_db, facts=facts)


def _choose_chords(chords: Mapping[str, object], generator: np.random.Generator) -> tuple[str, list[str]]:
    """Return the key, and the chord of each bar."""
    playable = [(key, bars) for key, bars in _progressions() if all(chord in chords for chord in bars)]
    if playable and generator.random() < 0.5:
        key, bars = playable[generator.integers(len(playable))]
        return key, bars * int(generator.integers(1, 2, endpoint=True))
    chord = sorted(chords)[generator.integers(len(chords))]
    return chord, [chord] * int(generator.integers(*_BARS, endpoint=True))


def _progressions() -> Iterable[tuple[str, list[str]]]:
    for tonic in range(12):
        for mode, degrees in PROGRESSIONS.items():
            key = f"{NOTES[tonic]} {mode.split()[0]}"
            yield key, [f"{NOTES[(tonic + step) % 12]} {quality}" for step, quality in degrees]


def _playable(kit: Mapping[str, object], name: str) -> list[Groove]:
    grooves = [TABLA] if name == "tabla" else GROOVES
    return [groove for groove in grooves if all(kit.get(piece) for piece in groove.parts)]


def _strum_captions(key: str, chords: Sequence[str], tempo: int, three: bool) -> list[str]:
    metre = " in three-four time" if three else ""
    if len(chords) == 1:
        return [
            f"strummed acoustic guitar, {key}, {tempo} bpm",
            f"an acoustic guitar strumming {_article(key)} {key} chord{metre} at {tempo} bpm",
            "strummed acoustic guitar",
        ]
    named = [chord.removesuffix(" major") for chord in chords]
    return [
        f"strummed acoustic guitar, {key}, {tempo} bpm",
        f"acoustic guitar strumming a chord progression in {key}{metre}, {tempo} bpm",
        f"acoustic guitar chords {', '.join(named[:-1])} and {named[-1]}, strummed",
        "acoustic guitar strumming chords",
    ]


def _drum_captions(kit: str, groove: str, tempo: int) -> list[str]:
    if kit == "tabla":
        return [f"tabla rhythm, {tempo} bpm", f"Indian hand drums playing at {tempo} bpm", "a tabla solo groove"]
    drums = {"acoustic": "acoustic drum kit", "electronic": "drum machine"}[kit]
    return [
        f"{groove} drum beat, {drums}, {tempo} bpm",
        f"{drums} playing a {groove} beat at {tempo} bpm",
        f"{groove} drums, {tempo} bpm",
        f"{groove} drum beat",
    ]


def _article(chord: str) -> str:
    return "an" if chord[0] in "AEF" else "a"


def _draw(recordings: Sequence[Recording], generator: np.random.Generator) -> Recording:
    return recordings[int(generator.integers(len(recordings)))]
