"""Draws a clip: its layers and their facts, its caption, its sound. One seed, one clip."""

from dataclasses import dataclass, replace

import numpy as np

from data.synthetic import held_out as exclusions
from data.synthetic import machines, music, nature
from data.synthetic.layers import SAMPLE_RATE, SHAPES, TEMPOS_BPM, Kind, Layer
from data.synthetic.space import place
from data.synthetic.wording import caption, choose_facts

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*nature.KINDS, *machines.KINDS, *music.KINDS)}
"""Every sound of the corpus by name."""

SCENES: tuple[frozenset[str], ...] = (
    frozenset(("rain", "thunder", "wind")),
    frozenset(("waves", "wind", "birds")),
    frozenset(("birds", "stream", "wind", "frogs", "crickets", "owl", "fire")),
    frozenset(("engine", "siren", "footsteps")),
    frozenset(("clock", "telephone", "typewriter", "fan", "knocking", "footsteps")),
    frozenset(("hammer", "engine", "fan", "alarm")),
)
"""Kinds that are often heard together, and asked for together: such layers are drawn as often as chance ones."""

MIN_SECONDS, MAX_SECONDS, MEDIAN_SECONDS = 2.0, 60.0, 9.0
NOISE_FLOOR_DB = -75.0
PEAK = 0.9


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A drawn clip."""

    audio: np.ndarray
    """(2, samples) float32 at 44,100 Hz, peak below 0.95."""
    prompt: str
    metadata: dict
    """seed, held_out (None, or what was held out), seconds_total, layers (facts and which of them are stated)."""


def choose(rng: np.random.Generator, options: tuple, weights: tuple[float, ...] | None = None):
    """One of the options, by weight."""
    share = None if weights is None else np.asarray(weights) / np.sum(weights)
    return options[int(rng.choice(len(options), p=share))]


def draw_layer(kind: Kind, seconds: float, rng: np.random.Generator, fixed: dict | None = None) -> Layer:
    """Draw the facts of one sound; `fixed` facts are given."""
    facts: dict = {
        "kind": kind.name,
        "seconds": seconds,
        "side": choose(rng, ("left", "center", "right", "wide"), (0.2, 0.4, 0.2, 0.2)),
        "brightness": choose(rng, ("dark", "neutral", "bright"), (0.2, 0.6, 0.2) if kind.colored else (0, 1, 0)),
        "loudness": choose(rng, ("quiet", "medium", "loud"), (0.15, 0.65, 0.2)),
        "distance": choose(rng, ("near", "medium", "distant"), (0.1, 0.7, 0.2)),
        "shape": choose(rng, SHAPES, (0.8, 0.06, 0.06, *((0.06, 0.06, 0.08) if kind.moves else (0, 0, 0)))),
        "rate": choose(rng, ("low", "medium", "high"), (0.3, 0.4, 0.3)) if kind.rates_hz else None,
        "timbre": choose(rng, kind.timbres) if kind.timbres else None,
        "mode": choose(rng, ("major", "minor")) if kind.keyed else None,
        "midi": int(rng.integers(kind.midi[0], kind.midi[1] + 1)) if kind.midi else None,
    }
    if facts["timbre"] == "pure sine":
        facts["brightness"] = "neutral"  # nothing to filter
    if kind.tempo:
        low, high = kind.tempo
        facts["tempo_bpm"] = choose(rng, tuple(bpm for bpm in TEMPOS_BPM if low <= bpm <= high))
    facts.update(fixed or {})
    if kind.rates_hz:
        facts["rate_hz"] = kind.rates_hz[("low", "medium", "high").index(facts["rate"])]
    if facts["shape"] == "passing" and facts["side"] not in ("left", "right"):
        facts["side"] = choose(rng, ("left", "right"))
    return Layer(**facts)


def choose_kinds(rng: np.random.Generator, first: tuple[str, ...]) -> list[Kind]:
    """One to three kinds that go together: foregrounds, then a background; one scene; or one band of instruments.

    One of them is out of `first`.
    """
    count = choose(rng, (1, 2, 3), (0.7, 0.22, 0.08))
    options = tuple(KINDS[name] for name in first)
    kinds = [options[0] if len(options) == 1 else choose(rng, options, tuple(kind.weight for kind in options))]
    if count > 1 and kinds[0].group == "music" and rng.random() < 0.5:
        band = [
            kind
            for kind in KINDS.values()
            if kind.group == "music" and kind.name not in ("drone", "sustained note", "bells")
        ]
    elif (scene := _scene(kinds[0])) and rng.random() < 0.5:
        band = scene
    else:
        band = [kind for kind in KINDS.values() if kind.bed or (kind.group != "music" and rng.random() < 0.4)]
    while len(kinds) < count:
        kind = choose(rng, tuple(band))
        if kind not in kinds:
            kinds.append(kind)
    return sorted(kinds, key=lambda kind: kind.bed)


def _scene(kind: Kind) -> list[Kind]:
    """Kinds of the scenes that a kind belongs to."""
    names = frozenset().union(*(scene for scene in SCENES if kind.name in scene))
    return [other for other in KINDS.values() if other.name in names]


def agree(layers: list[Layer]) -> list[Layer]:
    """Give layered sounds what sounding together asks for: one tempo, one key, not two on the same side."""
    first, common = layers[0], []
    for index, layer in enumerate(layers):
        if index > 0:
            if layer.tempo_bpm and first.tempo_bpm:
                layer = replace(layer, tempo_bpm=first.tempo_bpm)
            if layer.mode and first.mode and layer.midi and first.midi:
                low = KINDS[layer.kind].midi or (60, 71)
                layer = replace(layer, mode=first.mode, midi=low[0] + (first.midi - low[0]) % 12)
            if layer.side == first.side and layer.side in ("left", "right"):
                layer = replace(layer, side="left" if first.side == "right" else "right")
        common.append(layer)
    return common


def draw_layers(
    rng: np.random.Generator, fixed: dict | None, pair: frozenset[str] | None, first: tuple[str, ...]
) -> tuple[list[Layer], bool]:
    """Draw all the facts of one clip: (layers, whether they follow one another)."""
    kinds = choose_kinds(rng, (str(fixed["kind"]),) if fixed else first)
    if pair:
        kinds = sorted((KINDS[name] for name in sorted(pair)), key=lambda kind: kind.bed)
    shortest = max(kind.min_seconds for kind in kinds)
    seconds = float(np.clip(MEDIAN_SECONDS * np.exp(0.55 * rng.standard_normal()), shortest, MAX_SECONDS))
    seconds = round(seconds, 2)
    layers = [draw_layer(k, seconds, rng, fixed if fixed and k.name == fixed["kind"] else None) for k in kinds]
    layers = agree(layers)
    sequence = len(layers) == 2 and not pair and seconds > 8.0 and bool(rng.random() < 0.15)
    if sequence:
        half = round(0.52 * seconds, 2)
        steady = [replace(layer, shape="steady") for layer in layers]
        layers = [
            replace(steady[0], seconds=half),
            replace(steady[1], start_seconds=round(seconds - half, 2), seconds=half),
        ]
    return layers, sequence


def mix(layers: list[Layer], seeds: list[np.random.SeedSequence], rng: np.random.Generator) -> np.ndarray:
    """Render and add the layers over a faint noise floor: (2, samples)."""
    total = max(round((layer.start_seconds + layer.seconds) * SAMPLE_RATE) for layer in layers)
    floor = rng.standard_normal((2, total), dtype=np.float32) * np.float32(10 ** (NOISE_FLOOR_DB / 20))
    audio = np.zeros((2, total), dtype=np.float32)
    for layer, seed in zip(layers, seeds, strict=False):
        rendered = KINDS[layer.kind].render(layer, np.random.Generator(np.random.PCG64(seed)))
        start = round(layer.start_seconds * SAMPLE_RATE)
        placed = place(layer, np.atleast_2d(rendered))[:, : total - start]
        audio[:, start : start + placed.shape[-1]] += placed
    audio -= np.mean(audio, axis=-1, keepdims=True)
    return audio * min(1.0, PEAK / float(np.max(np.abs(audio)))) + floor


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The facts of a clip before they are put into words."""

    layers: list[Layer]
    fixed: dict
    """Facts that are held out as a combination, which every caption states."""
    sequence: bool
    """Whether the layers follow one another."""
    reason: str | None
    """What is held out."""

    def word(self, rng: np.random.Generator) -> tuple[list[Layer], str]:
        """Draw a caption: (layers with the facts it states, caption)."""
        must_state = tuple("pitch" if fact == "midi" else fact for fact in self.fixed)
        stated = [
            choose_facts(layer, rng, must_state if layer.kind == self.fixed.get("kind") else (), len(self.layers))
            for layer in self.layers
        ]
        layers = [replace(layer, stated=facts) for layer, facts in zip(self.layers, stated, strict=True)]
        return layers, caption(layers, rng, held_out_form=self.reason == "wording", sequence=self.sequence)


def _plan(seed: int, held_out: bool, kinds: tuple[str, ...]) -> _Plan:
    rng = np.random.Generator(np.random.PCG64(spawn_seeds(seed, held_out)[0]))
    reason = choose(rng, ("combination", "pair", "wording"), (0.6, 0.2, 0.2)) if held_out else None
    fixed = exclusions.COMBINATIONS[rng.integers(len(exclusions.COMBINATIONS))] if reason == "combination" else None
    pair = exclusions.PAIRS[rng.integers(len(exclusions.PAIRS))] if reason == "pair" else None
    while True:
        layers, sequence = draw_layers(rng, fixed, pair, kinds or tuple(KINDS))
        if exclusions.is_held_out(layers) == (reason in ("combination", "pair")) and not (sequence and held_out):
            return _Plan(layers=layers, fixed=fixed or {}, sequence=sequence, reason=reason)


def plan_clip(seed: int, *, held_out: bool = False, kinds: tuple[str, ...] = ()) -> tuple[list[Layer], str, dict]:
    """Draw a clip without its sound, which takes no time: (layers, prompt, metadata); see `draw_clip`."""
    plan = _plan(seed, held_out, kinds)
    layers, prompt = plan.word(np.random.Generator(np.random.PCG64(spawn_seeds(seed, held_out)[1])))
    metadata = {
        "seed": seed,
        "held_out": plan.reason,
        "seconds_total": round(max(layer.start_seconds + layer.seconds for layer in layers), 4),
        "layers": [layer.to_metadata() for layer in layers],
    }
    return layers, prompt, metadata


def captions(seed: int, number: int, *, held_out: bool = False, kinds: tuple[str, ...] = ()) -> list[str]:
    """Word a clip anew, `number` times: each caption states facts of its own choice. Arguments as `draw_clip`."""
    plan = _plan(seed, held_out, kinds)
    words = spawn_seeds(seed, held_out)[1].spawn(number)
    return [plan.word(np.random.Generator(np.random.PCG64(child)))[1] for child in words]


def draw_clip(seed: int, *, held_out: bool = False, kinds: tuple[str, ...] = ()) -> Clip:
    """Draw one clip; the same seed gives the same clip on any machine.

    Args:
        seed: non-negative; clips of different seeds are independent.
        held_out: draw only clips with a held-out combination, pair or wording; without it they never occur.
        kinds: sounds out of `KINDS` of which the clip holds one; what is layered with it may be another. Empty: any.
    """
    layers, prompt, metadata = plan_clip(seed, held_out=held_out, kinds=kinds)
    _, _, floor_seed, *sound_seeds = spawn_seeds(seed, held_out)
    audio = mix(layers, sound_seeds, np.random.Generator(np.random.PCG64(floor_seed)))
    return Clip(audio=audio, prompt=prompt, metadata=metadata)


def draw_captioned(seed: int, held_out: bool, num_captions: int) -> tuple[Clip, list[str]]:
    """Draw a clip with so many captions, of which its prompt is the first."""
    clip = draw_clip(seed, held_out=held_out)
    return clip, [clip.prompt, *captions(seed, num_captions - 1, held_out=held_out)]


def spawn_seeds(seed: int, held_out: bool) -> list[np.random.SeedSequence]:
    """Independent seeds of a clip's facts, words, noise floor and up to three layers."""
    return np.random.SeedSequence([seed, int(held_out)]).spawn(6)
