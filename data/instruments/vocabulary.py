"""The words of the captions.

In a form, `{adj}` is the place of adjectives, `{w}` an instrument's name, `{aw}` the name with its article, `{plays}` a
verb that agrees with it, and `@` an article that agrees with what follows.
"""

from data.instruments.table import ARPEGGIO, BASS, CHORDS, MELODY, PIECE

TONIC_NAMES: tuple[tuple[str, ...], ...] = (
    ("C",), ("C#", "C sharp", "Db", "D flat"), ("D",), ("D#", "Eb", "E flat", "Eb"), ("E",), ("F",),
    ("F#", "F sharp", "F#", "Gb"), ("G",), ("G#", "Ab", "A flat", "Ab"), ("A",), ("A#", "Bb", "B flat", "Bb"), ("B",),
)  # fmt: skip
"""Spellings of the pitch classes."""

ADJECTIVES: dict[tuple[str, str], tuple[str, ...]] = {
    ("pace", "slow"): ("slow", "slow", "slow-paced", "unhurried"),
    ("pace", "fast"): ("fast", "fast", "quick", "lively", "up-tempo"),
    ("dynamics", "soft"): ("soft", "quiet", "gentle"),
    ("dynamics", "loud"): ("loud", "powerful", "forceful"),
    ("mood", "sad"): ("sad", "melancholic", "mournful"),
    ("mood", "happy"): ("happy", "cheerful", "joyful"),
    ("mood", "calm"): ("calm", "peaceful", "relaxing"),
    ("mood", "dramatic"): ("dramatic", "intense", "dark"),
    ("articulation", "staccato"): ("staccato",),
    ("articulation", "legato"): ("legato", "flowing"),
    ("register", "low"): ("low", "deep"),
    ("register", "high"): ("high", "high-pitched"),
    ("space", "dry"): ("dry",),
    ("space", "hall"): ("reverberant",),
}
PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("articulation", "staccato"): ("played staccato", "with short detached notes", "staccato"),
    ("articulation", "legato"): ("played legato", "with smooth connected notes"),
    ("register", "low"): ("in a low register", "in the low register"),
    ("register", "high"): ("in a high register", "in the high register"),
    ("space", "dry"): ("without reverb", "recorded dry"),
    ("space", "hall"): ("with reverb", "in a large hall", "in a concert hall", "with long reverb"),
    ("side", "left"): ("on the left", "in the left channel", "on the left side"),
    ("side", "right"): ("on the right", "in the right channel", "on the right side"),
    ("side", "center"): ("in the center", "in the middle"),
    ("metre", "3/4"): ("in 3/4", "in 3/4 time", "in waltz time"),
    ("metre", "6/8"): ("in 6/8", "in 6/8 time"),
    ("metre", "4/4"): ("in 4/4", "in 4/4 time"),
}
TAGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("register", "low"): ("low register",),
    ("register", "high"): ("high register",),
    ("side", "left"): ("left",),
    ("side", "right"): ("right",),
    ("metre", "3/4"): ("3/4",),
    ("metre", "6/8"): ("6/8",),
    ("metre", "4/4"): ("4/4",),
    ("space", "hall"): ("reverb",),
    ("pace", "slow"): ("slow", "slow tempo"),
    ("pace", "fast"): ("fast", "fast tempo"),
}
"""How a list of tags says it, where not by the adjective."""
TEMPO_FORMS = ("at {} bpm", "at {} bpm", "{} bpm", "at {} beats per minute")

ROLE_FORMS: dict[str, tuple[str, ...]] = {
    MELODY: (
        "@{adj}{w} melody", "@{adj}{w} melody", "@{adj}melody on the {w}",
        "@{adj}{w} tune", "{adj}{w}", "{adj}solo {w}",
        "@{adj}{w} solo", "{aw} playing @{adj}melody", "{aw} {plays} @{adj}melody", "@{adj}melody played on the {w}",
    ),
    CHORDS: (
        "{adj}{w} chords", "{adj}{w} chords", "{adj}chords on the {w}", "{aw} playing {adj}chords", "{adj}{w}",
        "@{adj}{w} chord progression", "{aw} {plays} {adj}chords",
    ),
    ARPEGGIO: (
        "{adj}{w} arpeggios", "@{adj}{w} arpeggio", "{adj}arpeggios on the {w}",
        "{aw} playing {adj}arpeggios", "{adj}{w}",
        "{aw} playing {adj}broken chords", "{aw} {plays} {adj}arpeggios",
    ),
    BASS: ("@{adj}{w} line", "{adj}{w}", "{aw} playing @{adj}bass line",
        "@{adj}bass line on the {w}", "@{adj}{w} groove"),
    PIECE: (
        "@{adj}{w} piece", "{adj}solo {w}", "{adj}{w}",
        "{adj}{w} music", "@{adj}piece for solo {w}", "{aw} playing alone",
        "{aw} {plays} @{adj}tune with accompaniment", "@{adj}{w} tune with accompaniment",
    ),
}  # fmt: skip
"""A part as the whole of a clip or as its leading voice."""
GUITAR_FORMS = {
    CHORDS: ("@{adj}strummed {w}", "{adj}strummed {w} chords", "{aw} being strummed"),
    ARPEGGIO: ("@{adj}fingerpicked {w}", "{adj}fingerpicked {w}"),
}
ACCOMPANIMENTS: dict[str, tuple[str, ...]] = {
    MELODY: ("@{w} melody", "{aw}", "{w}"),
    CHORDS: ("{w} chords", "{w} chords", "{aw} playing chords", "{w}", "{aw}"),
    ARPEGGIO: ("{w} arpeggios", "{aw} playing arpeggios", "{w}", "{aw}"),
    BASS: ("{aw}", "{w}", "@{w} line"),
    PIECE: ("{w}", "{aw}", "{w} accompaniment"),
}
"""A part that goes with another."""

DRUM_FORMS = (
    "@{adj}{groove} beat", "@{adj}{groove} drum beat", "@{adj}{groove} drum loop", "@{adj}{groove} groove on {kit}",
    "{kit} playing @{adj}{groove} groove", "{adj}{groove} drums", "{kit} playing @{adj}{groove} beat",
)  # fmt: skip
BARE_DRUM_FORMS = (
    "@{adj}drum beat", "@{adj}drum loop", "@{adj}drum groove", "{adj}{kit}", "{kit} playing @{adj}beat", "{adj}{kit}",
)  # fmt: skip

NOTE_FORMS = (
    "@{adj}{w} note at {p}", "@{adj}{w} note at {p}", "@{adj}{w} playing {p}",
        "@single {adj}{w} note, {p}", "{p} on the {w}",
    "@{adj}note on the {w}, {p}", "{aw} playing the note {p}", "@{adj}{w} tone at {p}",
)  # fmt: skip
HELD_NOTE_FORMS = ("@long {adj}{w} note at {p}", "{aw} holding {p}", "@sustained {adj}{w} note at {p}")
REPEATED_NOTE_FORMS = ("@repeated {adj}{w} note at {p}", "{aw} repeating {p}", "{adj}{w} notes at {p}")
BARE_NOTE_FORMS = ("@{adj}{w} note", "@single {adj}{w} note", "@{adj}note on the {w}")
CHORD_FORMS = (
    "@{adj}{k} chord on the {w}",
    "@{adj}{w} chord, {k}",
    "{aw} playing @{adj}{k} chord",
    "@{adj}{k} {w} chord",
)
BARE_CHORD_FORMS = ("@{adj}{w} chord", "@single {adj}{w} chord", "@{adj}chord on the {w}")
SCALE_FORMS = (
    "@{adj}{k} scale on the {w}", "{aw} playing @{adj}{k} scale", "@{adj}{w} scale in {k}",
        "@{adj}{k} scale played on the {w}",
    "{aw} going up and down @{adj}{k} scale",
)  # fmt: skip
BARE_SCALE_FORMS = ("@{adj}{w} scale", "@{adj}scale on the {w}", "{aw} playing {adj}scales")

PAIR_FORMS = (
    "{a} with {b}", "{a} and {b}", "{a} over {b}", "{a} accompanied by {b}", "{a}, {b}", "{a} backed by {b}",
    "{a} while {b} can be heard below it",
)  # fmt: skip
HELD_OUT_PAIR_FORMS = ("{a}, and {b} along with it", "{b} supporting {a}", "{a} together with {b}")
DUO_FORMS = (
    "{adj}{w} and {v}",
    "@{adj}duo of {w} and {v}",
    "@{adj}{w} and {v} duo",
    "{w} and {v} playing {adj}music together",
)
GROUP_FORMS = (
    "{adj}{list}", "@{adj}{size} of {list}", "@{adj}{size} with {list}", "{list} playing {adj}music together",
    "@{adj}{size}: {list}",
)  # fmt: skip
CHAMBER_FORMS = (
    "@{adj}{family} {size}", "@{adj}{family} {size}", "@{adj}{family} {size} with {list}",
    "@{adj}piece for {family} {size}",
)  # fmt: skip
GROOVE_FORMS = (
    "{adj}{groove} with {list}", "{list} playing {adj}{groove}", "@{adj}{groove} {size} with {list}",
    "@{adj}{groove} {size}: {list}", "@{adj}{groove} groove, {list}",
)  # fmt: skip
SIZES = {2: ("duo",), 3: ("trio", "trio"), 4: ("band", "small band", "quartet"), 5: ("band", "small band", "group")}

FRAMES = ("{x}",) * 12 + ("the sound of {x}", "a recording of {x}", "you can hear {x}", "instrumental music: {x}")
HELD_OUT_FRAMES = ("we hear {x}", "an audio clip of {x}", "{x}, nothing else", "this is {x}")
