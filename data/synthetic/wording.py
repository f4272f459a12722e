"""Captions: from the facts of a clip's layers to a phrase a person might type.

`choose_facts` decides which facts a caption states; `describe` words one layer, `caption` joins up to three.
The words are in `vocabulary`.
"""

import numpy as np

from data.synthetic.layers import NOTE_NAMES, Layer, midi_to_name
from data.synthetic.vocabulary import (
    ADJECTIVES,
    DRUM_STYLES,
    FAST,
    HELD_OUT_PAIR_FORMS,
    HELD_OUT_SINGLE_FORMS,
    HELD_OUT_TRIPLE_FORMS,
    PAIR_FORMS,
    PASSING,
    PHRASES,
    SEQUENCE_FORMS,
    SINGLE_FORMS,
    SLOW,
    SURFACES,
    TEMPO_FORMS,
    TRIPLE_FORMS,
    WORDS,
)

STATE_CHANCE = {
    "side": {"left": 0.85, "right": 0.85, "wide": 0.35, "center": 0.12},
    "brightness": {"dark": 0.75, "bright": 0.75},
    "loudness": {"quiet": 0.75, "loud": 0.7},
    "distance": {"near": 0.4, "distant": 0.85},
    "rate": {"low": 0.8, "high": 0.8},
    "shape": dict.fromkeys(("fade in", "fade out", "approaching", "receding", "passing"), 0.97),
}


def choose_facts(
    layer: Layer, rng: np.random.Generator, must_state: tuple[str, ...] = (), num_layers: int = 1
) -> tuple[str, ...]:
    """Draw the facts a caption states: mostly those that are out of the ordinary, fewer for each of several layers.

    A sound that fades or moves away nearly always says so: unsaid, every sound might, and an endless one would.

    `tempo_bpm` is a tempo stated as a number, `tempo` one stated as slow (up to 80 bpm) or fast (from 140 bpm).
    """
    brief = rng.random() < 0.12  # two or three words
    scale = 0.3 if brief else (1.0, 0.9, 0.75)[num_layers - 1]
    stated = []
    for fact, chances in STATE_CHANCE.items():
        chance = chances.get(getattr(layer, fact), 0.0) * (1.0 if fact == "shape" else scale)
        if layer.shape == "passing" and fact == "side":
            chance = 0.0  # the passage says it
        if rng.random() < chance or fact in must_state:
            stated.append(fact)
    if layer.timbre is not None and (rng.random() < 0.75 * scale or "timbre" in must_state):
        stated.append("timbre")
    if layer.midi is not None and (rng.random() < 0.85 * scale or "pitch" in must_state):
        stated.append("key" if layer.mode else "pitch")
    by_word = rng.random() < 0.35 and (layer.tempo_bpm or 100) not in range(81, 140) and "tempo_bpm" not in must_state
    if layer.tempo_bpm is not None and (rng.random() < 0.8 * scale or "tempo_bpm" in must_state):
        stated.append("tempo" if by_word else "tempo_bpm")
    return tuple(stated)


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def with_article(phrase: str, countable: bool) -> str:
    """Prefix a countable phrase with "a" or "an"."""
    if not countable:
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def pitch_phrase(layer: Layer, rng: np.random.Generator) -> str:
    """The note or the key in words."""
    assert layer.midi is not None
    if layer.mode is not None:
        return f"in {NOTE_NAMES[layer.midi % 12]} {layer.mode}"
    return f"{pick(('at', 'at', 'on', 'tuned to'), rng)} {midi_to_name(layer.midi)}"


def adjectives_and_phrases(layer: Layer, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """The stated facts as words before the noun and as phrases behind it."""
    before, behind = [], []
    words = WORDS[layer.kind]
    for fact in layer.stated:
        key = (fact, str(getattr(layer, fact, None)))
        if fact == "tempo_bpm":
            behind.append(pick(TEMPO_FORMS, rng).format(layer.tempo_bpm))
        elif fact == "tempo":
            before.append(pick(SLOW if (layer.tempo_bpm or 0) < 100 else FAST, rng))
        elif fact in ("pitch", "key"):
            behind.append(pitch_phrase(layer, rng))
        elif fact == "rate":
            before.append(pick(words.low if layer.rate == "low" else words.high, rng))
        elif fact == "timbre" and layer.timbre in SURFACES:
            behind.append(SURFACES[layer.timbre])
        elif fact == "timbre" and layer.kind == "drum loop":
            behind.append(DRUM_STYLES[layer.timbre or "plain"])
        elif fact == "timbre":
            before.append(str(layer.timbre))
        elif key == ("shape", "passing"):
            behind.append(pick(PASSING["right" if layer.side == "right" else "left"], rng))
        elif key in ADJECTIVES and (key not in PHRASES or rng.random() < 0.5):
            before.append(pick(ADJECTIVES[key], rng))
        else:
            behind.append(pick(PHRASES[key], rng))
    return before, behind


def describe(layer: Layer, rng: np.random.Generator) -> str:
    """Word one layer: "a distant siren on the left, fading out"; now and then as tags."""
    before, behind = adjectives_and_phrases(layer, rng)
    noun = pick(WORDS[layer.kind].nouns, rng)
    countable = noun.startswith(("a ", "an "))
    noun = noun.split(" ", 1)[1] if countable else noun
    if noun.startswith("someone"):  # takes no adjective before it
        before, behind = [], [*behind, *before]
    rng.shuffle(behind)
    if rng.random() < 0.12:
        return ", ".join([noun, *before, *behind])
    rng.shuffle(before)
    if rng.random() < 0.06:
        countable = False
    phrase = with_article(" ".join([*before, noun]), countable)
    for i, part in enumerate(behind):
        phrase += (", " if i >= 2 else " ") + part
    return phrase


def caption(layers: list[Layer], rng: np.random.Generator, *, held_out_form: bool, sequence: bool) -> str:
    """Word a whole clip of one to three layers, the last one being the background."""
    phrases = dict(zip("abc", (describe(layer, rng) for layer in layers), strict=False))
    if len(layers) == 1:
        forms = HELD_OUT_SINGLE_FORMS if held_out_form else SINGLE_FORMS
    elif len(layers) == 2:
        forms = SEQUENCE_FORMS if sequence else HELD_OUT_PAIR_FORMS if held_out_form else PAIR_FORMS
    else:
        forms = HELD_OUT_TRIPLE_FORMS if held_out_form else TRIPLE_FORMS
    text = pick(forms, rng).format(**phrases)
    style = rng.random()
    if style < 0.2:
        text = text[0].upper() + text[1:]
    if style < 0.1:
        text += "."
    return text
