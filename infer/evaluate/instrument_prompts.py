"""Prompts of pieces played by instruments (`data.instruments`) whose facts are known, and real renderings of them.

Only what can be heard in one window and belongs to the whole clip is asked for: of several players, tempo, key and
dynamics; of one, also the instrument, the side and the pitch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.audio import SAMPLE_RATE
from data.instruments import INSTRUMENTS, Piece, draw_clip, find_soundfont, plan_clip
from data.instruments.compose import compose
from data.instruments.draw import draw_piece
from data.instruments.render import perform
from data.instruments.soundfont import open_soundfont
from data.loading import derived_seed
from data.synthetic.layers import midi_to_hz
from models.errors import UserError

INSTRUMENT_FACTS = ("instrument", "instrument tag", "tempo_bpm", "tempo", "key", "pitch", "side", "dynamics")
TAG_OF_FAMILY = {"guitar": "guitar", "lead": "synth"}
TAG_OF_INSTRUMENT = {
    "piano": "piano",
    "violin": "violin",
    "fiddle": "violin",
    "cello": "cello",
    "strings": "strings",
    "harpsichord": "harpsichord",
    "flute": "flute",
    "sitar": "sitar",
    "harp": "harp",
    "choir": "choir",
}
"""What the tagger calls an instrument; the others have no tag."""
NUM_REFERENCES = 5
SEEDS_PER_SET = 10_000_000
MAX_TRIES = 20_000
_REFERENCE = 13


@dataclass(frozen=True, kw_only=True)
class InstrumentPrompt:
    """A prompt of a piece, and the facts behind it (`fact_checks.FactPrompt`)."""

    prompt: str
    piece: Piece
    seed: int
    held_out: bool
    seconds: float
    """Length of the window: the beginning of the piece."""
    soundfont: Path | None = None

    @property
    def facts(self) -> tuple[str, ...]:
        """What the prompt states and can be measured, and the instrument of a single player."""
        piece, stated = self.piece, self.piece.stated
        fixed = {"tempo": "pace", "tempo_bpm": "tempo_bpm", "pitch": "pitch", "side": "side", "dynamics": "dynamics"}
        found = {fact for fact, name in fixed.items() if name in stated}
        if "key" in stated and piece.key is not None and piece.key.mode in ("major", "minor"):
            found.add("key")
        if len(piece.parts) == 1 and piece.parts[0].instrument in INSTRUMENTS:
            found |= {"instrument"} | ({"instrument tag"} if self._tag else set())
        return tuple(fact for fact in INSTRUMENT_FACTS if fact in found)

    @property
    def _tag(self) -> str:
        instrument = INSTRUMENTS[self.piece.parts[0].instrument]
        return TAG_OF_INSTRUMENT.get(instrument.name, TAG_OF_FAMILY.get(instrument.family, ""))

    def asked(self, fact: str) -> str | float:
        """Return what the prompt asks for: a word, or a number in the fact's unit."""
        piece = self.piece
        values = {
            "instrument": piece.parts[0].instrument,
            "instrument tag": "" if fact != "instrument tag" else self._tag,
            "tempo_bpm": float(piece.tempo_bpm),
            "tempo": piece.pace or "",
            "key": str(piece.key),
            "pitch": 0.0 if piece.midi is None else midi_to_hz(piece.midi),
            "side": piece.parts[0].side,
            "dynamics": piece.dynamics,
        }
        return values[fact]

    def real_clip(self) -> Tensor:
        """Render the beginning of the piece: (2, samples)."""
        audio = draw_clip(self.seed, self.soundfont, held_out=self.held_out).audio
        return torch.from_numpy(audio[:, : round(self.seconds * SAMPLE_RATE)])

    def words_of(self, fact: str) -> str:
        """Return nothing: the words are all instruments."""
        del fact
        return ""

    def references(self, fact: str, seconds: float) -> Mapping[str, Iterable[Tensor]]:
        """Render the beginnings of other pieces, of each instrument alone."""
        assert fact == "instrument"
        return {name: self._of(name, seconds) for name in INSTRUMENTS}

    def _of(self, name: str, seconds: float) -> Iterable[Tensor]:
        for index in range(NUM_REFERENCES):
            seed = derived_seed(_REFERENCE, list(INSTRUMENTS).index(name), index)
            rng = np.random.default_rng(seed)
            piece = draw_piece(rng, {"instrument": name})
            while [part.instrument for part in piece.parts] != [name]:
                piece = draw_piece(rng, {"instrument": name})
            audio = perform(piece, compose(piece, rng), open_soundfont(find_soundfont(self.soundfont)), rng)
            yield torch.from_numpy(audio[:, : round(seconds * SAMPLE_RATE)])


def instrument_prompts(
    number: int,
    seconds: float,
    *,
    seed: int = 0,
    held_out: bool = True,
    facts: Sequence[str] = INSTRUMENT_FACTS,
    soundfont: Path | None = None,
) -> list[InstrumentPrompt]:
    """Draw prompts; each fact in turn brings the next prompt that states it, as far as there are any.

    Args:
        seconds: length of the clips.
        seed: another seed, other prompts.
        held_out: prompts with combinations or wordings that training never sees, or new ones of the training's kind.
        facts: which facts to look for.

    Raises:
        UserError: there are not enough such prompts.
    """
    chosen: dict[str, InstrumentPrompt] = {}
    counts = dict.fromkeys(facts, 0)
    for clip_seed in range(seed * SEEDS_PER_SET, seed * SEEDS_PER_SET + MAX_TRIES):
        if len(chosen) == number:
            break
        piece, text, _ = plan_clip(clip_seed, held_out=held_out)
        item = InstrumentPrompt(
            prompt=text, piece=piece, seed=clip_seed, held_out=held_out, seconds=seconds, soundfont=soundfont
        )
        own = set(item.facts) & set(facts)
        if own and text not in chosen and min(counts[fact] for fact in own) <= min(counts.values()):
            chosen[text] = item
            for fact in own:
                counts[fact] += 1
    if len(chosen) < number:
        raise UserError(f"found {len(chosen)} prompts that state {', '.join(facts)}, wanted {number}")
    return list(chosen.values())
