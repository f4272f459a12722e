"""Draws the facts of a clip: who plays what, how, in which key, tempo and metre."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from data.instruments.ensembles import BAND_OF_GROOVE, BANDS, CHAMBERS, ROLES
from data.instruments.grooves import GROOVES, METRES, Groove
from data.instruments.harmony import MODES, Key
from data.instruments.piece import LEAD_IN_SECONDS, TAIL_SECONDS, Part, Piece
from data.instruments.table import (
    ARPEGGIO,
    BASS,
    BASSES,
    CHORDS,
    DRUMS,
    HARMONY,
    INSTRUMENTS,
    MELODY,
    PIECE,
    Instrument,
)

Option = TypeVar("Option")

KINDS = ("note", "chord", "scale", "solo", "drums", "duo", "trio", "chamber", "band")
KIND_WEIGHTS = (0.14, 0.03, 0.06, 0.34, 0.10, 0.13, 0.08, 0.04, 0.08)
MEDIAN_SECONDS, MIN_SECONDS, MAX_SECONDS = 20.0, 6.0, 60.0
TEMPOS_BPM = {
    "4/4": tuple(bpm for bpm in range(60, 181, 2) if bpm % 10 == 0 or bpm % 4 == 0),
    "3/4": tuple(bpm for bpm in range(60, 181, 2) if bpm % 10 == 0 or bpm % 4 == 0),
    "6/8": tuple(range(40, 111, 5)),
}
"""Tempos that are drawn: multiples of ten, which are drawn twice as often, and of four."""


def choose(rng: np.random.Generator, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
    """One of the options, by weight."""
    share = None if weights is None else np.asarray(weights) / np.sum(weights)
    return options[int(rng.choice(len(options), p=share))]


def choose_instrument(
    rng: np.random.Generator, role: str, but: Sequence[str] = (), among: Sequence[str] | None = None
) -> Instrument:
    """An instrument that plays a role, by weight; not one of `but`."""
    names = INSTRUMENTS if among is None else among
    options = [INSTRUMENTS[name] for name in names if name not in but and (among or role in INSTRUMENTS[name].roles)]
    return choose(rng, options, [instrument.weight for instrument in options])


def draw_part(rng: np.random.Generator, instrument: Instrument, role: str) -> Part:
    """Draw how an instrument plays its part."""
    plain = (MELODY, ARPEGGIO) if instrument.shortest_seconds < 0.3 else ()
    weights = (0.2, 0.65, 0.15) if instrument.sustained else (0.15, 0.85, 0.0)
    return Part(
        instrument=instrument.name,
        role=role,
        register=choose(rng, ("low", "middle", "high"), (0.2, 0.6, 0.2)) if role in (MELODY, ARPEGGIO) else "middle",
        articulation=choose(rng, ("staccato", "normal", "legato"), weights) if role in plain else "normal",
    )


def draw_key(rng: np.random.Generator) -> Key:
    """Draw a key, every tonic as often."""
    modes = tuple(MODES.values())
    return Key(tonic=int(rng.integers(12)), mode=choose(rng, modes, [mode.weight for mode in modes]).name)


def draw_tempo(rng: np.random.Generator, metre: str, groove: Groove | None = None) -> int:
    """Draw a tempo in bpm that suits the metre, and the groove where there is one."""
    low, high = groove.tempos if groove else (0, 1000)
    options = [bpm for bpm in TEMPOS_BPM[metre] if low <= bpm <= high]
    return choose(rng, options, [2.0 if bpm % 10 == 0 else 1.0 for bpm in options])


def draw_piece(rng: np.random.Generator, fixed: dict[str, str | int] | None = None) -> Piece:
    """Draw all facts of a clip; those of a held-out combination may be fixed."""
    fixed = fixed or {}
    kind = choose(rng, KINDS, KIND_WEIGHTS)
    if "pitch" in fixed:
        kind = "note"
    elif "groove" in fixed:
        kind = choose(rng, ("drums", "trio", "band"), (0.5, 0.25, 0.25))
    elif "tempo_bpm" in fixed or "key" in fixed:
        bass = fixed.get("instrument") in BASSES
        kind = choose(rng, ("duo", "trio") if bass else ("solo", "duo"), (0.8, 0.2))
    elif "side" in fixed:
        kind = choose(rng, ("note", "solo"))
    piece = _EXERCISES[kind](rng, fixed) if kind in _EXERCISES else _draw_music(rng, kind, fixed)
    return replace(
        piece,
        dynamics=choose(rng, ("soft", "medium", "loud"), (0.2, 0.6, 0.2)),
        space=choose(rng, ("dry", "room", "hall"), (0.2, 0.55, 0.25)),
    )


def _place_solo(rng: np.random.Generator, part: Part) -> Part:
    return replace(part, side=choose(rng, ("left", "center", "right"), (0.15, 0.7, 0.15)))


def _draw_note(rng: np.random.Generator, fixed: dict[str, str | int]) -> Piece:
    name = str(fixed.get("instrument", choose_instrument(rng, MELODY, among=tuple(INSTRUMENTS)).name))
    instrument = INSTRUMENTS[name]
    midi = int(fixed.get("pitch", rng.integers(instrument.low, instrument.high + 1)))
    third = (midi - instrument.low) / max(1, instrument.high - instrument.low)
    register = "low" if third < 0.3 else "high" if third > 0.7 else "middle"
    staccato = rng.random() < 0.1
    part = Part(
        instrument=name, role=MELODY, register=register, articulation="staccato" if staccato else "normal"
    )  # fmt: skip
    strikes = choose(rng, (1, 3, 4, 6, 8), (0.5, 0.15, 0.15, 0.1, 0.1))
    held = strikes == 1 and instrument.sustained and not staccato
    short = staccato or instrument.ring_seconds < 1
    struck = (200, 240, 300) if short else (60, 80, 100, 120)
    tempo = choose(rng, (30, 40, 50, 60, 80) if held else struck)
    return Piece(form="note", parts=(_place_solo(rng, part),), tempo_bpm=tempo, num_bars=strikes, midi=midi)


def _draw_chord(rng: np.random.Generator, fixed: dict[str, str | int]) -> Piece:  # noqa: ARG001 as the other exercises
    instrument = choose_instrument(rng, CHORDS)
    key = Key(tonic=int(rng.integers(12)), mode=choose(rng, ("major", "minor")))
    part = _place_solo(rng, Part(instrument=instrument.name, role=CHORDS))
    strikes = choose(rng, (1, 2, 4, 8), (0.5, 0.15, 0.2, 0.15))
    return Piece(form="chord", parts=(part,), tempo_bpm=choose(rng, (60, 80, 100)), num_bars=strikes, key=key)


def _draw_scale(rng: np.random.Generator, fixed: dict[str, str | int]) -> Piece:  # noqa: ARG001 as the other exercises
    among = [name for name, one in INSTRUMENTS.items() if one.high - one.low >= 23 and one.shortest_seconds < 0.35]
    part = _place_solo(rng, draw_part(rng, choose_instrument(rng, MELODY, among=among), MELODY))
    piece = Piece(form="scale", parts=(part,), tempo_bpm=draw_tempo(rng, "4/4"), num_bars=1, key=draw_key(rng))
    return replace(piece, num_bars=scale_bars(piece, choose(rng, (1, 2, 3), (0.4, 0.4, 0.2))))


def scale_bars(piece: Piece, times: int) -> int:
    """Bars of a scale that goes up and down so many times and comes to rest."""
    assert piece.key is not None
    cycle = 2 * len(MODES[piece.key.mode].scale)
    return -(-(times * cycle + 1) // METRES[piece.metre])


def _draw_music(rng: np.random.Generator, kind: str, fixed: dict[str, str | int]) -> Piece:
    groove = _draw_groove(rng, kind, fixed)
    metre = groove.metre if groove else choose(rng, ("4/4", "3/4", "6/8"), (0.62, 0.23, 0.15))
    if "tempo_bpm" in fixed and not groove:
        metre = "4/4"
    tempo = int(fixed.get("tempo_bpm", draw_tempo(rng, metre, groove)))
    key = draw_key(rng)
    if "key" in fixed:
        key = next(Key(tonic=t, mode=m) for t in range(12) for m in MODES if str(Key(tonic=t, mode=m)) == fixed["key"])
    parts = _draw_players(rng, kind, groove, str(fixed["instrument"]) if "instrument" in fixed else None)
    if "side" in fixed:
        parts = (replace(parts[0], side=str(fixed["side"])), *parts[1:])
    seconds = float(np.clip(MEDIAN_SECONDS * np.exp(0.35 * rng.standard_normal()), MIN_SECONDS, MAX_SECONDS))
    bar_seconds = METRES[metre] * 60.0 / tempo
    num_bars = max(3, round((seconds - LEAD_IN_SECONDS - TAIL_SECONDS["room"]) / bar_seconds))
    return Piece(
        form="piece",
        parts=parts,
        tempo_bpm=tempo,
        metre=metre,
        num_bars=num_bars,
        key=None if kind == "drums" else key,
        groove=groove.name if groove else None,
    )


def _draw_groove(rng: np.random.Generator, kind: str, fixed: dict[str, str | int]) -> Groove | None:
    if "groove" in fixed:
        return GROOVES[str(fixed["groove"])]
    if kind in ("drums", "band") or (kind == "trio" and rng.random() < 0.6) or (kind == "duo" and rng.random() < 0.25):
        low = int(fixed.get("tempo_bpm", 0))
        fitting = [one for one in GROOVES.values() if not low or one.tempos[0] <= low <= one.tempos[1]]
        return choose(rng, fitting)
    return None


def _draw_players(rng: np.random.Generator, kind: str, groove: Groove | None, named: str | None) -> tuple[Part, ...]:
    """The parts of an ensemble, the melody first and the drums last; `named` is an instrument that must be in it."""
    kit = [Part(instrument=choose(rng, groove.kits), role=DRUMS)] if groove else []
    if kind == "drums":
        return (_place_solo(rng, kit[0]),)
    if kind == "chamber":
        return _draw_chamber(rng)
    if kind == "solo":
        instrument = INSTRUMENTS[named] if named else choose_instrument(rng, MELODY, among=tuple(INSTRUMENTS))
        role = choose(rng, instrument.roles, [_SOLO_WEIGHTS[role] for role in instrument.roles])
        return (_place_solo(rng, draw_part(rng, instrument, role)),)
    roles = {"duo": 2, "trio": 3, "band": int(rng.choice((4, 4, 5)))}[kind] - len(kit)
    wanted = ROLES[roles] if roles > 1 else ((BASS,), (CHORDS,), (MELODY,))
    wanted = [order for order in wanted if not named or set(order) & set(INSTRUMENTS[named].roles)]
    chosen = choose(rng, wanted)
    melody, chords, bass = BANDS[BAND_OF_GROOVE[groove.name]] if groove and rng.random() < 0.75 else (None, None, None)
    pools = {MELODY: melody, CHORDS: chords, ARPEGGIO: None, BASS: bass, PIECE: None}
    players: list[Part] = []
    for role in chosen:
        taken = [part.instrument for part in players]
        if named and named not in taken and role in INSTRUMENTS[named].roles:
            instrument = INSTRUMENTS[named]
        else:
            instrument = choose_instrument(rng, role, but=[*taken, *([named] if named else [])], among=pools[role])
        players.append(draw_part(rng, instrument, role))
    return (*_spread(rng, players), *kit)


def _draw_chamber(rng: np.random.Generator) -> tuple[Part, ...]:
    """Three or four players of one family."""
    highest, *others = choose(rng, tuple(CHAMBERS.values()))[: choose(rng, (3, 4))]
    *inner, lowest = (INSTRUMENTS[name] for name in others)
    melody = draw_part(rng, INSTRUMENTS[highest], MELODY)
    harmony = [Part(instrument=instrument.name, role=HARMONY) for instrument in inner]
    return (melody, *harmony, Part(instrument=lowest.name, role=BASS, register="low"))


def _spread(rng: np.random.Generator, players: list[Part]) -> tuple[Part, ...]:
    """Now and then place two players on the two sides."""
    if len(players) == 2 and rng.random() < 0.3:
        sides = choose(rng, (("left", "right"), ("right", "left")))
        return tuple(replace(part, side=side) for part, side in zip(players, sides, strict=True))
    return tuple(players)


_EXERCISES = {"note": _draw_note, "chord": _draw_chord, "scale": _draw_scale}
_SOLO_WEIGHTS = {MELODY: 0.5, CHORDS: 0.15, ARPEGGIO: 0.2, PIECE: 0.35, BASS: 1.0}
