"""The instruments: their General MIDI programs, sounding ranges, and what they play.

Programs were chosen by measurement on FluidR3 GM: over the stated range the pitch is there, not its octave, and its
median deviation is below 10 cents (a choir's below 20). Left out for this are tubular bells and timpani (no partial at
the named pitch), percussive and rock organ (an octave low), shamisen (none at low notes), the whistle (its vibrato),
the upper half of muted guitars, and synth effects.
"""

import math
from dataclasses import dataclass

MELODY, HARMONY, CHORDS, ARPEGGIO, BASS, DRUMS = "melody", "harmony", "chords", "arpeggio", "bass", "drums"
PIECE = "piece"
"""What a part plays; harmony is an inner voice, a piece a melody with its own accompaniment, as on a piano."""


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One instrument of the SoundFont."""

    name: str
    program: int
    """General MIDI program, counted from 0."""
    low: int
    high: int
    """Lowest and highest MIDI note that it plays here."""
    family: str
    """A name out of `FAMILIES`."""
    words: tuple[str, ...]
    """What captions call it."""
    roles: tuple[str, ...]
    sustained: bool
    """A held note goes on for as long as it is held."""
    shortest_seconds: float = 0.1
    """The shortest note that speaks."""
    ring_seconds: float = math.inf
    """How long a struck or plucked note is heard."""
    transpose: int = 0
    """Semitones by which the font has to be asked for a higher note than is to be heard (an organ's lowest drawbar)."""
    weight: float = 1.0
    """How often it is drawn, relative to the others."""


_ALL = (MELODY, CHORDS, ARPEGGIO, PIECE)
FAMILIES: dict[str, tuple[tuple[str, ...], bool]] = {
    "keys": (_ALL, False),
    "mallets": ((MELODY, ARPEGGIO), False),
    "organ": ((MELODY, CHORDS, PIECE), True),
    "reeds": ((MELODY, CHORDS), True),
    "guitar": (_ALL, False),
    "plucked": ((MELODY, ARPEGGIO), False),
    "bass": ((BASS,), False),
    "strings": ((MELODY,), True),
    "ensemble": ((MELODY, CHORDS), True),
    "voices": ((MELODY, CHORDS), True),
    "brass": ((MELODY,), True),
    "woodwind": ((MELODY,), True),
    "lead": ((MELODY, ARPEGGIO), True),
    "pad": ((CHORDS,), True),
}
"""What the instruments of a family play, and whether they sustain."""

# fmt: off
_ROWS: tuple[tuple[str, int, int, int, str, tuple[str, ...]], ...] = (
    # name, program, lowest and highest note, family, further names
    ("piano", 0, 33, 94, "keys", ("grand piano", "acoustic piano")),
    ("electric piano", 4, 36, 84, "keys", ("Rhodes", "Rhodes piano")),
    ("harpsichord", 6, 36, 84, "keys", ()),
    ("clavinet", 7, 36, 76, "keys", ("clavi",)),
    ("celesta", 8, 60, 96, "mallets", ()),
    ("glockenspiel", 9, 79, 103, "mallets", ("orchestra bells",)),
    ("music box", 10, 60, 96, "mallets", ()),
    ("vibraphone", 11, 53, 89, "mallets", ("vibes",)),
    ("marimba", 12, 45, 84, "mallets", ()),
    ("xylophone", 13, 65, 96, "mallets", ()),
    ("hammered dulcimer", 15, 50, 84, "plucked", ("dulcimer",)),
    ("electric organ", 16, 48, 84, "organ", ("Hammond organ", "organ", "drawbar organ")),
    ("church organ", 19, 40, 84, "organ", ("pipe organ", "organ")),
    ("reed organ", 20, 41, 84, "organ", ("harmonium", "pump organ")),
    ("accordion", 21, 53, 89, "reeds", ()),
    ("harmonica", 22, 60, 84, "reeds", ("mouth organ",)),
    ("bandoneon", 23, 48, 84, "reeds", ()),
    ("classical guitar", 24, 40, 79, "guitar", ("nylon guitar", "Spanish guitar", "guitar")),
    ("acoustic guitar", 25, 40, 79, "guitar", ("steel-string guitar", "guitar")),
    ("jazz guitar", 26, 40, 79, "guitar", ("mellow electric guitar",)),
    ("electric guitar", 27, 40, 79, "guitar", ("clean electric guitar",)),
    ("muted guitar", 28, 40, 62, "plucked", ("palm-muted guitar",)),
    ("overdriven guitar", 29, 40, 79, "lead", ("overdriven electric guitar",)),
    ("distorted guitar", 30, 40, 79, "lead", ("distortion guitar", "heavy electric guitar")),
    ("upright bass", 32, 28, 55, "bass", ("double bass", "acoustic bass")),
    ("bass guitar", 33, 28, 55, "bass", ("electric bass", "fingered bass")),
    ("picked bass", 34, 28, 55, "bass", ("picked bass guitar",)),
    ("fretless bass", 35, 28, 55, "bass", ()),
    ("slap bass", 36, 28, 55, "bass", ("slapped bass guitar",)),
    ("synth bass", 38, 28, 55, "bass", ("synthesizer bass",)),
    ("violin", 40, 55, 93, "strings", ()),
    ("viola", 41, 48, 81, "strings", ()),
    ("cello", 42, 36, 72, "strings", ()),
    ("bowed double bass", 43, 28, 50, "strings", ("bowed contrabass",)),
    ("tremolo strings", 44, 43, 86, "ensemble", ("string tremolo",)),
    ("pizzicato strings", 45, 43, 84, "plucked", ("plucked strings",)),
    ("harp", 46, 36, 91, "plucked", ("concert harp",)),
    ("strings", 48, 43, 84, "ensemble", ("string section", "string ensemble", "orchestral strings")),
    ("synth strings", 50, 43, 84, "pad", ("string pad",)),
    ("choir", 52, 57, 79, "voices", ("choir voices", "vocal choir")),
    ("voices", 53, 50, 79, "voices", ("wordless voices", "vocals")),
    ("trumpet", 56, 54, 82, "brass", ()),
    ("trombone", 57, 40, 70, "brass", ()),
    ("tuba", 58, 28, 55, "brass", ()),
    ("muted trumpet", 59, 54, 82, "brass", ("harmon-muted trumpet",)),
    ("french horn", 60, 41, 74, "brass", ("horn",)),
    ("brass section", 61, 43, 79, "brass", ("brass",)),
    ("soprano saxophone", 64, 56, 84, "woodwind", ("soprano sax",)),
    ("alto saxophone", 65, 51, 77, "woodwind", ("alto sax", "saxophone", "sax")),
    ("tenor saxophone", 66, 46, 74, "woodwind", ("tenor sax", "saxophone", "sax")),
    ("baritone saxophone", 67, 38, 66, "woodwind", ("baritone sax",)),
    ("oboe", 68, 58, 87, "woodwind", ()),
    ("english horn", 69, 52, 79, "woodwind", ("cor anglais",)),
    ("bassoon", 70, 38, 70, "woodwind", ()),
    ("clarinet", 71, 50, 88, "woodwind", ()),
    ("piccolo", 72, 74, 101, "woodwind", ("piccolo flute",)),
    ("flute", 73, 60, 93, "woodwind", ("transverse flute",)),
    ("recorder", 74, 65, 91, "woodwind", ()),
    ("pan flute", 75, 60, 86, "woodwind", ("panpipes",)),
    ("shakuhachi", 77, 55, 84, "woodwind", ("Japanese flute",)),
    ("ocarina", 79, 65, 88, "woodwind", ()),
    ("square lead", 80, 48, 88, "lead", ("square wave synth", "chiptune synth")),
    ("saw lead", 81, 48, 88, "lead", ("sawtooth synth", "synth lead", "synthesizer")),
    ("fantasy pad", 88, 48, 84, "pad", ("bell-like pad",)),
    ("warm pad", 89, 48, 79, "pad", ("synth pad", "synthesizer pad", "ambient pad")),
    ("sitar", 104, 48, 77, "plucked", ()),
    ("banjo", 105, 48, 81, "plucked", ()),
    ("koto", 107, 48, 84, "plucked", ("Japanese koto",)),
    ("kalimba", 108, 60, 84, "mallets", ("thumb piano",)),
    ("bagpipe", 109, 57, 77, "woodwind", ("bagpipes",)),
    ("fiddle", 110, 55, 86, "strings", ("folk fiddle",)),
    ("shehnai", 111, 60, 81, "woodwind", ("shanai",)),
    ("steel drums", 114, 60, 84, "mallets", ("steelpan", "steel drum")),
)
# fmt: on

_SHORTEST_SECONDS = {"pad": 0.9, "ensemble": 0.35, "voices": 0.4, "strings": 0.22, "brass": 0.15}
_RING_SECONDS = {"keys": 2.0, "guitar": 1.6, "bass": 1.5, "plucked": 0.9, "mallets": 0.8}
_COMMON = {
    "piano": 6.0,
    "classical guitar": 2.0,
    "acoustic guitar": 3.0,
    "electric guitar": 2.0,
    "violin": 2.5,
    "cello": 1.5,
    "flute": 2.0,
    "trumpet": 1.5,
    "electric piano": 1.5,
    "strings": 2.0,
    "harp": 1.5,
    "alto saxophone": 1.5,
    "clarinet": 1.5,
    "church organ": 1.5,
    "marimba": 1.5,
}
"""How much more often than others an instrument is drawn that is asked for more often."""

INSTRUMENTS: dict[str, Instrument] = {
    name: Instrument(
        name=name,
        program=program,
        low=low,
        high=high,
        family=family,
        words=(name, *words),
        roles=FAMILIES[family][0],
        sustained=FAMILIES[family][1],
        shortest_seconds=_SHORTEST_SECONDS.get(family, 0.1),
        ring_seconds=_RING_SECONDS.get(family, math.inf),
        transpose=24 if name == "electric organ" else 0,
        weight=_COMMON.get(name, 1.0),
    )
    for name, program, low, high, family, words in _ROWS
}
"""Every instrument by name; drums are in `grooves`."""

BASSES = tuple(name for name, instrument in INSTRUMENTS.items() if instrument.family == "bass")
