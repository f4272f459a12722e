"""Who plays together: bands with drums, chamber groups of one family, and the roles of their players."""

from data.instruments.piece import Piece
from data.instruments.table import ARPEGGIO, BASS, CHORDS, MELODY, PIECE

BANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "jazz": (
        (
            "alto saxophone",
            "tenor saxophone",
            "trumpet",
            "muted trumpet",
            "clarinet",
            "vibraphone",
            "flute",
            "trombone",
        ),
        ("piano", "jazz guitar", "electric piano", "vibraphone"),
        ("upright bass", "fretless bass"),
    ),
    "latin": (
        ("flute", "trumpet", "classical guitar", "alto saxophone", "steel drums", "marimba", "accordion"),
        ("classical guitar", "piano", "acoustic guitar", "electric piano"),
        ("upright bass", "bass guitar"),
    ),
    "rock": (
        ("overdriven guitar", "distorted guitar", "electric guitar", "saw lead", "harmonica", "electric piano"),
        ("electric guitar", "electric organ", "piano", "acoustic guitar"),
        ("bass guitar", "picked bass"),
    ),
    "pop": (
        ("piano", "electric guitar", "saw lead", "violin", "flute", "alto saxophone", "trumpet", "glockenspiel"),
        ("piano", "acoustic guitar", "electric piano", "strings", "warm pad", "electric guitar"),
        ("bass guitar", "fretless bass", "slap bass"),
    ),
    "electronic": (
        ("saw lead", "square lead", "electric piano", "piano", "kalimba", "vibraphone"),
        ("warm pad", "synth strings", "electric piano", "piano", "fantasy pad", "choir"),
        ("synth bass", "bass guitar"),
    ),
    "folk": (
        ("fiddle", "banjo", "harmonica", "acoustic guitar", "accordion", "violin", "ocarina", "recorder"),
        ("acoustic guitar", "accordion", "piano", "bandoneon"),
        ("upright bass", "bass guitar"),
    ),
    "march": (
        ("trumpet", "piccolo", "clarinet", "trombone", "brass section", "flute"),
        ("brass section", "accordion", "piano"),
        ("tuba", "bowed double bass"),
    ),
}
"""Instruments of a kind of band: melody, chords, bass."""
BAND_OF_GROOVE = {
    "swing jazz": "jazz", "jazz waltz": "jazz", "blues shuffle": "rock", "bossa nova": "latin", "samba": "latin",
    "latin": "latin", "rock": "rock", "pop": "pop", "disco": "pop", "funk": "pop", "slow ballad": "pop",
    "house": "electronic", "trap": "electronic", "hip hop": "electronic", "drum and bass": "electronic",
    "reggae": "rock", "country": "folk", "waltz": "folk", "march": "march",
}  # fmt: skip
"""The kind of band that plays a groove."""
CHAMBERS: dict[str, tuple[str, ...]] = {
    "string": ("violin", "viola", "cello", "bowed double bass"),
    "woodwind": ("flute", "oboe", "clarinet", "bassoon"),
    "brass": ("trumpet", "french horn", "trombone", "tuba"),
    "saxophone": ("soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone"),
}
"""Groups of one family, from the highest instrument, which has the melody, to the lowest, which has the bass."""
ROLES: dict[int, tuple[tuple[str, ...], ...]] = {
    2: ((MELODY, CHORDS), (MELODY, CHORDS), (MELODY, ARPEGGIO), (MELODY, PIECE), (MELODY, BASS), (CHORDS, BASS)),
    3: ((MELODY, CHORDS, BASS), (MELODY, CHORDS, BASS), (MELODY, ARPEGGIO, BASS), (MELODY, CHORDS, ARPEGGIO)),
    4: ((MELODY, CHORDS, ARPEGGIO, BASS),),
}
"""What each player plays in an ensemble of so many without the drums."""


def chamber_of(piece: Piece) -> str | None:
    """The family of a group of three or four players that are all of one."""
    names = [part.instrument for part in piece.parts]
    return next(
        (family for family, all_names in CHAMBERS.items() if len(names) > 2 and set(names) <= set(all_names)), None
    )
