"""Prompts whose facts are known, from the procedural corpus, and real clips of the same facts.

Every prompt names a single sound, so that what is measured belongs to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.loading import derived_seed
from data.synthetic import KINDS, Kind, Layer, plan_clip
from data.synthetic.draw import draw_layer, mix
from data.synthetic.layers import BRIGHTNESSES, NOTE_NAMES, RATES
from models.errors import UserError

FACTS = (
    "kind",
    "tempo_bpm",
    "tempo",
    "pitch",
    "key",
    "side",
    "motion",
    "brightness",
    "rate",
    "loudness",
    "course",
    "length",
)
"""What is measured: see `fact_checks`."""

# What a random stream is for, so that no two purposes share one.
_CLIP, _REFERENCE = 11, 12
KIND_REFERENCES, WORD_REFERENCES = 10, 6
SEEDS_PER_SET = 10_000_000
MAX_TRIES = 20_000


@dataclass(frozen=True, kw_only=True)
class SyntheticPrompt:
    """A prompt of one sound, and the facts behind it (`fact_checks.FactPrompt`)."""

    prompt: str
    layer: Layer
    """The facts; `layer.stated` are those that the prompt states."""
    seed: int
    """Of the real clip."""

    @property
    def facts(self) -> tuple[str, ...]:
        """Names out of `FACTS` that this prompt fixes: what it states, the kind, and the length of a steady sound."""
        shape = self.layer.shape
        moves = "motion" if shape == "passing" else "course"
        fixed = {moves if fact == "shape" else fact for fact in self.layer.stated} | {"kind"}
        fixed |= {"length"} if shape == "steady" else set()
        fixed -= {"side"} if shape == "passing" else set()  # it is where the sound comes from
        return tuple(fact for fact in FACTS if fact in fixed)

    def real_clip(self) -> Tensor:
        """Render a clip of the corpus with these facts: (2, samples)."""
        return render(self.layer, derived_seed(_CLIP, self.seed))

    def asked(self, fact: str) -> str | float:
        """Return what the prompt asks for: a word, or a number in the fact's unit."""
        layer = self.layer
        if fact == "pitch":
            assert layer.pitch_hz is not None
            return layer.pitch_hz
        if fact == "key":
            assert layer.midi is not None
            return f"{NOTE_NAMES[layer.midi % 12]} {layer.mode}"
        if fact == "tempo":
            return "slow" if (layer.tempo_bpm or 0) < 100 else "fast"
        if fact == "motion":
            return "to the left" if layer.side == "right" else "to the right"
        if fact == "course":
            return "rising" if layer.shape in ("fade in", "approaching") else "falling"
        value = layer.seconds if fact == "length" else getattr(layer, fact)
        assert value is not None
        return value

    def words_of(self, fact: str) -> str:
        """Return the kind, which a fast or a bright one belongs to."""
        return "" if fact == "kind" else self.layer.kind

    def references(self, fact: str, seconds: float) -> Mapping[str, Iterable[Tensor]]:
        """Render clips of all kinds, or of this kind as slow, fast, dark, bright ..."""
        if fact == "kind":
            fitting = [kind for kind in KINDS.values() if kind.min_seconds <= seconds]
            return {kind.name: _reference_clips(kind, seconds, KIND_REFERENCES) for kind in fitting}
        kind = KINDS[self.layer.kind]
        words = BRIGHTNESSES if fact == "brightness" else RATES
        return {word: _reference_clips(kind, seconds, WORD_REFERENCES, {fact: word}) for word in words}


def _reference_clips(kind: Kind, seconds: float, number: int, fixed: dict | None = None) -> Iterator[Tensor]:
    for index in range(number):
        yield reference_clip(kind, seconds, index, fixed)


def render(layer: Layer, seed: int) -> Tensor:
    """Render one layer over the corpus's noise floor: (2, samples)."""
    floor, *sounds = np.random.SeedSequence(seed).spawn(2)
    return torch.from_numpy(mix([layer], sounds, np.random.Generator(np.random.PCG64(floor))))


def reference_clip(kind: Kind, seconds: float, index: int, fixed: dict | None = None) -> Tensor:
    """Render reference clip `index` of a kind, its facts drawn but for the `fixed` ones: (2, samples)."""
    seed = derived_seed(_REFERENCE, list(KINDS).index(kind.name), index)
    return render(draw_layer(kind, seconds, np.random.default_rng(seed), fixed), seed)


def corpus_prompts(
    number: int,
    seconds: float,
    *,
    seed: int = 0,
    held_out: bool = True,
    facts: Sequence[str] = FACTS,
    kinds: Sequence[str] = (),
) -> list[SyntheticPrompt]:
    """Draw prompts from the corpus; each fact in turn brings the next prompt that states it, as far as there are any.

    Args:
        seconds: length of the clips; sounds that need longer are left out.
        seed: another seed, other prompts.
        held_out: prompts with combinations or wordings that training never sees, or new ones of the training's kind.
        facts: which facts to look for.
        kinds: which kinds of sound; all of them where empty.

    Raises:
        UserError: a name is unknown, or there are not enough such prompts.
    """
    _check_names("facts", facts, FACTS)
    _check_names("kinds", kinds, tuple(KINDS))
    candidates = _candidates(seconds, seed * SEEDS_PER_SET, held_out, kinds)
    waiting: dict[str, list[SyntheticPrompt]] = {fact: [] for fact in facts}
    chosen: dict[str, SyntheticPrompt] = {}
    for turn in range(number * len(facts)):
        if len(chosen) == number:
            break
        fact = facts[turn % len(facts)]
        while not waiting[fact]:
            found = next(candidates, None)
            if found is None:
                break
            for stated in set(found.facts) & set(facts):
                waiting[stated].append(found)
        if waiting[fact]:
            found = waiting[fact].pop(0)
            chosen.setdefault(found.prompt, found)
    if len(chosen) < number:
        raise UserError(f"found {len(chosen)} prompts of these kinds that state {', '.join(facts)}, wanted {number}")
    return list(chosen.values())


def _candidates(seconds: float, first_seed: int, held_out: bool, kinds: Sequence[str]) -> Iterator[SyntheticPrompt]:
    for seed in range(first_seed, first_seed + MAX_TRIES):
        layers, prompt, _ = plan_clip(seed, held_out=held_out)
        layer = layers[0]
        fits = len(layers) == 1 and KINDS[layer.kind].min_seconds <= seconds
        if fits and (not kinds or layer.kind in kinds):
            yield SyntheticPrompt(prompt=prompt, layer=replace(layer, seconds=seconds), seed=seed)


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown {what}: {', '.join(unknown)}; known are {', '.join(known)}")


_PLAIN: tuple[tuple[str, dict], ...] = (
    ("rain", {"kind": "rain"}),
    ("wind", {"kind": "wind"}),
    ("a clock", {"kind": "clock"}),
    ("a siren", {"kind": "siren"}),
    ("an engine", {"kind": "engine"}),
    ("birds singing", {"kind": "birds"}),
    ("a drum loop at 90 bpm", {"kind": "drum loop", "tempo_bpm": 90}),
    ("a drum loop at 120 bpm", {"kind": "drum loop", "tempo_bpm": 120}),
    ("a drum loop at 140 bpm", {"kind": "drum loop", "tempo_bpm": 140}),
    ("a metronome at 100 bpm", {"kind": "metronome", "tempo_bpm": 100}),
    ("a sustained note at C3", {"kind": "sustained note", "midi": 48}),
    ("a sustained note at G3", {"kind": "sustained note", "midi": 55}),
    ("a sustained note at C4", {"kind": "sustained note", "midi": 60}),
    ("a sustained note at A4", {"kind": "sustained note", "midi": 69}),
    ("a sustained note at C5", {"kind": "sustained note", "midi": 72}),
    ("rain on the left", {"kind": "rain", "side": "left"}),
    ("rain on the right", {"kind": "rain", "side": "right"}),
    ("a siren on the left", {"kind": "siren", "side": "left"}),
    ("a siren on the right", {"kind": "siren", "side": "right"}),
    ("a drum loop on the left", {"kind": "drum loop", "side": "left"}),
    ("a drum loop on the right", {"kind": "drum loop", "side": "right"}),
)
_ORDINARY = {
    "side": "center",
    "brightness": "neutral",
    "loudness": "medium",
    "distance": "medium",
    "shape": "steady",
}


def plain_prompts(seconds: float) -> list[SyntheticPrompt]:
    """The fixed list of the plainest prompts: a kind alone, with a tempo, with a pitch, with a side."""
    prompts = []
    for index, (prompt, facts) in enumerate(_PLAIN):
        layer = draw_layer(KINDS[facts["kind"]], seconds, np.random.default_rng(index), _ORDINARY | facts)
        stated = tuple("pitch" if fact == "midi" else fact for fact in facts if fact != "kind")
        prompts.append(SyntheticPrompt(prompt=prompt, layer=replace(layer, stated=stated), seed=index))
    return prompts
