"""Draws a clip: its facts, its caption, its notes, its sound. One seed and one SoundFont, one clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.instruments.compose import compose
from data.instruments.draw import choose, draw_piece
from data.instruments.held_out import COMBINATIONS, PAIRS, combination_of, is_held_out
from data.instruments.piece import Piece
from data.instruments.render import perform
from data.instruments.soundfont import find_soundfont, open_soundfont
from data.instruments.wording import caption, choose_facts
from data.synthetic import Clip

_FACTS, _WORDS, _NOTES, _SOUND = range(4)
_DIFFERENT_FROM_SYNTHETIC = 1_852_797_985
"""So that a seed has nothing in common with the same seed of `data.synthetic`."""


def _seeds(seed: int, held_out: bool) -> list[np.random.SeedSequence]:
    """Independent seeds of a clip's facts, words, notes and sound."""
    return np.random.SeedSequence([seed, int(held_out), _DIFFERENT_FROM_SYNTHETIC]).spawn(4)


def _generator(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _draw(seed: int, held_out: bool) -> tuple[Piece, str | None, tuple[str, ...]]:
    """Draw the facts: (piece, what is held out, facts that every caption must state)."""
    rng = _generator(_seeds(seed, held_out)[_FACTS])
    if not held_out:
        while is_held_out(piece := draw_piece(rng)):
            pass
        return piece, None, ()
    reason = choose(rng, ("combination", "pair", "wording"), (0.6, 0.15, 0.25))
    while True:
        fixed = choose(rng, COMBINATIONS) if reason == "combination" else {}
        piece = draw_piece(rng, fixed)
        if reason == "combination" and combination_of(piece) == fixed:
            return piece, reason, tuple(name for name in fixed if name != "instrument")
        names = {part.instrument for part in piece.parts}
        if reason == "pair" and any(pair <= names for pair in PAIRS):
            return piece, reason, ()
        if reason == "wording" and not is_held_out(piece):
            return piece, reason, ()


def _word(piece: Piece, reason: str | None, must_state: tuple[str, ...], rng: np.random.Generator) -> tuple[Piece, str]:
    """Draw a caption: (piece with the facts that it states, caption)."""
    piece = replace(piece, stated=choose_facts(piece, rng, must_state))
    return piece, caption(piece, rng, held_out_form=reason == "wording")


def plan_clip(seed: int, *, held_out: bool = False) -> tuple[Piece, str, dict]:
    """Draw a clip without its sound, which takes no time and no SoundFont: (piece, prompt, metadata)."""
    piece, reason, must_state = _draw(seed, held_out)
    piece, prompt = _word(piece, reason, must_state, _generator(_seeds(seed, held_out)[_WORDS]))
    metadata = {"seed": seed, "held_out": reason, "seconds_total": piece.seconds, **piece.to_metadata()}
    return piece, prompt, metadata


def captions(seed: int, number: int, *, held_out: bool = False) -> list[str]:
    """Word a clip anew, `number` times: each caption states facts of its own choice."""
    plan = _draw(seed, held_out)
    return [_word(*plan, _generator(child))[1] for child in _seeds(seed, held_out)[_WORDS].spawn(number)]


def draw_clip(seed: int, soundfont: Path | None = None, *, held_out: bool = False) -> Clip:
    """Draw one clip; the same seed and SoundFont give the same clip.

    Args:
        seed: non-negative; clips of different seeds are independent.
        soundfont: a General MIDI SoundFont; none: the installed one.
        held_out: draw only clips with a held-out combination, pair or wording; without it they never occur.

    Raises:
        UserError: no SoundFont, or tinysoundfont is not installed.
    """
    piece, prompt, metadata = plan_clip(seed, held_out=held_out)
    seeds = _seeds(seed, held_out)
    scores = compose(piece, _generator(seeds[_NOTES]))
    font = open_soundfont(find_soundfont(soundfont))
    audio = perform(piece, scores, font, _generator(seeds[_SOUND]))
    return Clip(audio=audio, prompt=prompt, metadata={**metadata, "soundfont": font.path.name})


def draw_captioned(seed: int, soundfont: Path, held_out: bool, num_captions: int) -> tuple[Clip, list[str]]:
    """Draw a clip with so many captions, of which its prompt is the first."""
    clip = draw_clip(seed, soundfont, held_out=held_out)
    return clip, [clip.prompt, *captions(seed, num_captions - 1, held_out=held_out)]
