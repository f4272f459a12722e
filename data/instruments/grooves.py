"""Drum grooves of our own: what each drum plays in a bar, and how bass and chords go with it.

A pattern is a string, one character a step: `X` accented, `x` plain, `o` soft, `.` nothing. A bar of 4/4 has 16 steps,
or 12 where the beat is divided by three (swing, shuffle); 3/4 has 12 or 9, 6/8 has 12 (two beats of six).
"""

from dataclasses import dataclass

STROKES = {"X": 1.0, "x": 0.78, "o": 0.42}
"""Velocity of each kind of stroke."""

# General MIDI percussion keys.
KICK, RIM, SNARE, CLAP, BRUSH = 36, 37, 38, 39, 40
CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 42, 44, 46
LOW_TOM, MIDDLE_TOM, HIGH_TOM = 43, 45, 48
CRASH, RIDE, TAMBOURINE, COWBELL = 49, 51, 54, 56
HIGH_CONGA, LOW_CONGA, SHAKER, CLAVES, CABASA, TRIANGLE = 63, 64, 70, 75, 69, 81

METRES: dict[str, int] = {"4/4": 4, "3/4": 3, "6/8": 2}
"""Beats of a bar; a beat of 6/8 is a dotted quarter."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A drum kit: a preset of the percussion bank."""

    name: str
    program: int
    words: tuple[str, ...]


KITS: dict[str, Kit] = {
    kit.name: kit
    for kit in (
        Kit(name="drums", program=0, words=("drums", "drum kit", "acoustic drums")),
        Kit(name="room drums", program=8, words=("drums", "roomy drums")),
        Kit(name="power drums", program=16, words=("drums", "heavy drums", "powerful drums")),
        Kit(name="electronic drums", program=24, words=("electronic drums", "electronic drum kit")),
        Kit(name="drum machine", program=25, words=("drum machine", "808 drums", "808 drum machine")),
        Kit(name="jazz drums", program=32, words=("jazz drums", "drums")),
        Kit(name="brushed drums", program=40, words=("brushed drums", "drums played with brushes")),
    )
}
"""Every drum kit by name."""


@dataclass(frozen=True, kw_only=True)
class Groove:
    """One style of drumming."""

    name: str
    words: tuple[str, ...] = ()
    """What captions call it besides its name: a jazz beat."""
    metre: str
    tempos: tuple[int, int]
    """Slowest and fastest tempo in bpm."""
    drums: dict[int, str]
    """Percussion key -> pattern of a bar, or of two."""
    kits: tuple[str, ...]
    bass: str
    """Pattern of the bass: root on the first step, then root, fifth and octave."""
    chords: str
    """Rhythm of the accompanying chords."""
    walking: bool = False
    """The bass walks in quarters instead."""


_BACKBEAT = "....X.......X..."
GROOVES: dict[str, Groove] = {
    groove.name: groove
    for groove in (
        Groove(
            name="rock", words=("rock and roll",),
            metre="4/4", tempos=(90, 150), kits=("drums", "power drums", "room drums"),
            drums={KICK: "X.......X.x.....", SNARE: _BACKBEAT, CLOSED_HAT: "X.x.X.x.X.x.X.x."},
            bass="X.x.x.x.x.x.x.x.", chords="X...x...x...x...",
        ),
        Groove(
            name="pop", metre="4/4", tempos=(80, 130), kits=("drums", "room drums", "electronic drums"),
            drums={KICK: "X.....x...x.....", SNARE: _BACKBEAT, CLOSED_HAT: "x.x.x.x.x.x.x.x.",
                   TAMBOURINE: "....o.......o..."},
            bass="X.....x.x.....x.", chords="X...x...x..x..x.",
        ),
        Groove(
            name="house", words=("electronic dance",),
            metre="4/4", tempos=(116, 132), kits=("electronic drums", "drum machine"),
            drums={KICK: "X...X...X...X...", CLAP: _BACKBEAT, OPEN_HAT: "..X...X...X...X.",
                   CLOSED_HAT: "x..xx..xx..xx..x"},
            bass="..x...x...x...x.", chords="x..x..x...x..x..",
        ),
        Groove(
            name="disco", metre="4/4", tempos=(110, 130), kits=("drums", "room drums"),
            drums={KICK: "X...X...X...X...", SNARE: _BACKBEAT, CLOSED_HAT: "x.o.x.o.x.o.x.o.",
                   OPEN_HAT: "..x...x...x...x."},
            bass="X.x.X.x.X.x.X.x.", chords="..x...x...x...x.",
        ),
        Groove(
            name="funk", metre="4/4", tempos=(90, 120), kits=("drums", "room drums"),
            drums={KICK: "X.x...x...X..x..", SNARE: "....X..o.o..X..o", CLOSED_HAT: "xoxoxoxoxoxoxoxo"},
            bass="X..x..x.x.x..x..", chords="..x..x....x..x..",
        ),
        Groove(
            name="hip hop", words=("boom bap",),
            metre="4/4", tempos=(76, 102), kits=("electronic drums", "drum machine", "room drums"),
            drums={KICK: "X..x......Xx....", SNARE: _BACKBEAT, CLOSED_HAT: "x.x.x.x.x.xox.x."},
            bass="X..x......x.....", chords="X.......x.......",
        ),
        Groove(
            name="trap", metre="4/4", tempos=(120, 150), kits=("drum machine",),
            drums={KICK: "X.....x...x.....X......x..x.....", CLAP: "........X...............X.......",
                   CLOSED_HAT: "x.x.x.x.x.x.xxxxx.x.x.xxx.x.x.x."},
            bass="X.........x.....", chords="X...............",
        ),
        Groove(
            name="drum and bass", metre="4/4", tempos=(160, 176), kits=("drums", "electronic drums"),
            drums={KICK: "X.........X.....", SNARE: "....X..o.o..X..o", CLOSED_HAT: "x.x.x.x.x.x.x.x."},
            bass="X.....x...x.....", chords="X...............",
        ),
        Groove(
            name="bossa nova", words=("bossa",),
            metre="4/4", tempos=(110, 150), kits=("jazz drums", "brushed drums"),
            drums={KICK: "X..xX..xX..xX..x", RIM: "X..x..x...x..x..", CLOSED_HAT: "x.x.x.x.x.x.x.x."},
            bass="X..xx..xx..xx..x", chords="X..x..x...x..x..",
        ),
        Groove(
            name="samba", metre="4/4", tempos=(160, 180), kits=("drums", "jazz drums"),
            drums={KICK: "X..xX..xX..xX..x", RIM: "x.xx.x.xx.x.xx.x", SHAKER: "XooxXooxXooxXoox",
                   HIGH_CONGA: "......x.......xx"},
            bass="X..xX..xX..xX..x", chords="x.x..x.x..x.x...",
        ),
        Groove(
            name="latin", words=("salsa",),
            metre="4/4", tempos=(96, 132), kits=("drums",),
            drums={KICK: "X.....x.X.....x.", COWBELL: "X...x...X...x...", CLAVES: "x..x..x...x.x...",
                   HIGH_CONGA: "....x.......x...",
                   LOW_CONGA: "......xx......xx", CABASA: "x.x.x.x.x.x.x.x."},
            bass="X.....x.....x...", chords="X..x..x.x..x..x.",
        ),
        Groove(
            name="swing jazz", words=("jazz", "swing"),
            metre="4/4", tempos=(110, 180), kits=("jazz drums", "brushed drums"), walking=True,
            drums={RIDE: "X..x.xX..x.x", PEDAL_HAT: "...x.....x..", KICK: "o..o..o..o.."},
            bass="X..x..x..x..", chords="X....x......",
        ),
        Groove(
            name="blues shuffle", words=("blues", "shuffle"),
            metre="4/4", tempos=(80, 130), kits=("drums", "room drums"),
            drums={KICK: "X.....X....x", SNARE: "...X.....X..", CLOSED_HAT: "X.xx.xX.xx.x"},
            bass="X.xx.xx.xx.x", chords="X..x..X..x..",
        ),
        Groove(
            name="reggae", metre="4/4", tempos=(66, 92), kits=("drums", "room drums"),
            drums={KICK: "........X.......", RIM: "........X.......", CLOSED_HAT: "x.xox.xox.xox.xo"},
            bass="X..x..x.....x.x.", chords="....X.......X...",
        ),
        Groove(
            name="country", metre="4/4", tempos=(100, 170), kits=("drums", "brushed drums"),
            drums={KICK: "X.......X.......", SNARE: "o.ooXoooo.ooXooo"},
            bass="X.......x.......", chords="....X.......X...",
        ),
        Groove(
            name="march", words=("marching",),
            metre="4/4", tempos=(100, 124), kits=("drums",),
            drums={KICK: "X.......X.......", SNARE: "X.ooX.ooX.ooXxxx", CRASH: "X..............."},
            bass="X.......x.......", chords="....X.......X...",
        ),
        Groove(
            name="waltz", metre="3/4", tempos=(90, 180), kits=("drums", "brushed drums", "jazz drums"),
            drums={KICK: "X...........", SNARE: "....x...x...", CLOSED_HAT: "....x...x..."},
            bass="X...........", chords="....X...X...",
        ),
        Groove(
            name="jazz waltz", words=("jazz",),
            metre="3/4", tempos=(110, 170), kits=("jazz drums", "brushed drums"), walking=True,
            drums={RIDE: "X..x.xx..", PEDAL_HAT: "...x.....", KICK: "X....o..."},
            bass="X..x..x..", chords="X....x...",
        ),
        Groove(
            name="slow ballad", words=("ballad",),
            metre="6/8", tempos=(40, 66), kits=("drums", "room drums"),
            drums={KICK: "X.......x...", SNARE: "......X.....", CLOSED_HAT: "x.x.x.x.x.x."},
            bass="X.....x...x.", chords="X.x.x.X.x.x.",
        ),
    )
}  # fmt: skip
"""Every groove by name."""
