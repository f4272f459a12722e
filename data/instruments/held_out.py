"""What training never sees: the listed combinations of facts, and the wordings `vocabulary.HELD_OUT_*`.

`draw_clip(seed)` redraws a clip that contains a listed combination; `draw_clip(seed, held_out=True)` always contains a
combination, or a held-out wording.
"""

from data.instruments.piece import Part, Piece

COMBINATIONS: tuple[dict[str, str | int], ...] = (
    # instrument, tempo and key
    {"instrument": "piano", "tempo_bpm": 90, "key": "A minor"},
    {"instrument": "piano", "tempo_bpm": 120, "key": "D major"},
    {"instrument": "acoustic guitar", "tempo_bpm": 100, "key": "G major"},
    {"instrument": "classical guitar", "tempo_bpm": 80, "key": "E minor"},
    {"instrument": "strings", "tempo_bpm": 70, "key": "C minor"},
    {"instrument": "violin", "tempo_bpm": 110, "key": "D minor"},
    # instrument and tempo
    {"instrument": "violin", "tempo_bpm": 96},
    {"instrument": "flute", "tempo_bpm": 110},
    {"instrument": "trumpet", "tempo_bpm": 130},
    {"instrument": "harp", "tempo_bpm": 80},
    {"instrument": "electric guitar", "tempo_bpm": 140},
    {"instrument": "marimba", "tempo_bpm": 120},
    {"instrument": "upright bass", "tempo_bpm": 96},
    {"instrument": "accordion", "tempo_bpm": 100},
    # instrument and key
    {"instrument": "cello", "key": "G minor"},
    {"instrument": "clarinet", "key": "F major"},
    {"instrument": "alto saxophone", "key": "A minor"},
    {"instrument": "electric piano", "key": "C major"},
    {"instrument": "church organ", "key": "D minor"},
    {"instrument": "banjo", "key": "G major"},
    {"instrument": "music box", "key": "E minor"},
    {"instrument": "harp", "key": "D dorian"},
    # single notes
    {"instrument": "piano", "pitch": 67},
    {"instrument": "violin", "pitch": 76},
    {"instrument": "cello", "pitch": 50},
    {"instrument": "flute", "pitch": 79},
    {"instrument": "trumpet", "pitch": 65},
    {"instrument": "marimba", "pitch": 60},
    # instrument and side
    {"instrument": "piano", "side": "left"},
    {"instrument": "violin", "side": "right"},
    {"instrument": "trumpet", "side": "left"},
    {"instrument": "classical guitar", "side": "right"},
    # groove and tempo
    {"groove": "rock", "tempo_bpm": 120},
    {"groove": "swing jazz", "tempo_bpm": 140},
    {"groove": "bossa nova", "tempo_bpm": 130},
    {"groove": "funk", "tempo_bpm": 100},
    {"groove": "hip hop", "tempo_bpm": 90},
)
"""Facts that never occur together in training, though each alone does: those of one part, and of the whole piece."""

PAIRS: tuple[frozenset[str], ...] = (
    frozenset(("flute", "harp")),
    frozenset(("violin", "acoustic guitar")),
    frozenset(("trumpet", "piano")),
    frozenset(("cello", "piano")),
    frozenset(("alto saxophone", "upright bass")),
)
"""Instruments that never play together in training."""


def fact(piece: Piece, part: Part, name: str) -> str | int | None:
    """A fact of a part in its piece by the name it has in `COMBINATIONS`."""
    if name == "key":
        return None if piece.key is None else str(piece.key)
    if name == "tempo_bpm":
        return piece.tempo_bpm if piece.has_tempo else None
    if name == "pitch":
        return piece.midi
    return piece.groove if name == "groove" else getattr(part, name)


def combination_of(piece: Piece) -> dict[str, str | int] | None:
    """The first listed combination in a piece; none: it may be trained on, as far as its instruments may."""
    for combination in COMBINATIONS:
        for part in piece.parts:
            if all(fact(piece, part, name) == value for name, value in combination.items()):
                return combination
    return None


def is_held_out(piece: Piece) -> bool:
    """Whether a piece holds a listed combination or pair."""
    names = {part.instrument for part in piece.parts}
    return combination_of(piece) is not None or any(pair <= names for pair in PAIRS)
