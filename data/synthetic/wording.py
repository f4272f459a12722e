"""Captions: from the facts of a clip's layers to a phrase a person might type.

`choose_facts` decides which facts a caption states; `describe` words one layer, `caption` joins up to three.
Forms and joiners named HELD_OUT_* appear in held-out clips only.
"""

from dataclasses import dataclass

import numpy as np

from data.synthetic.layers import NOTE_NAMES, Layer, midi_to_name


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a kind is called. A noun that takes an article starts with "a " or "an "."""

    nouns: tuple[str, ...]
    low: tuple[str, ...] = ()
    """Adjectives of the rate `low`."""
    high: tuple[str, ...] = ()


WORDS = {
    "rain": Words(
        nouns=("rain", "rainfall", "rain falling", "a rain shower"), low=("light", "gentle"), high=("heavy", "pouring")
    ),
    "wind": Words(nouns=("wind", "wind blowing", "a wind"), low=("gentle", "soft"), high=("strong", "howling")),
    "waves": Words(
        nouns=("ocean waves", "waves on a beach", "sea waves", "surf"), low=("slow", "lazy"), high=("fast", "rough")
    ),
    "stream": Words(
        nouns=("a stream", "a babbling brook", "running water", "a creek"),
        low=("trickling", "gentle"),
        high=("rushing", "fast"),
    ),
    "dripping water": Words(nouns=("dripping water", "water dripping", "a dripping tap", "water drops")),
    "thunder": Words(nouns=("thunder", "thunder rolling", "a thunderstorm", "rumbling thunder")),
    "fire": Words(
        nouns=("a fire", "a crackling fire", "a campfire", "a fireplace"),
        low=("small", "gentle"),
        high=("roaring", "big"),
    ),
    "birds": Words(
        nouns=("birds singing", "birdsong", "birds chirping", "chirping birds"),
        low=("sparse", "occasional"),
        high=("busy", "many"),
    ),
    "crickets": Words(
        nouns=("crickets", "crickets chirping", "chirping crickets", "insects at night"),
        low=("slow",),
        high=("fast", "busy"),
    ),
    "frogs": Words(
        nouns=("frogs", "frogs croaking", "croaking frogs", "frogs in a pond"),
        low=("sparse", "slow"),
        high=("busy", "fast"),
    ),
    "owl": Words(nouns=("an owl", "an owl hooting", "a hooting owl"), low=("slow",), high=("fast", "restless")),
    "applause": Words(
        nouns=("applause", "people clapping", "an audience applauding", "hand claps"),
        low=("sparse", "scattered"),
        high=("thunderous", "dense"),
    ),
    "engine": Words(
        nouns=("an engine", "a motor running", "a car engine", "an engine running"),
        low=("idling", "slow"),
        high=("revving", "fast"),
    ),
    "propeller": Words(
        nouns=("a propeller", "a helicopter", "a propeller plane", "rotor blades"), low=("slow",), high=("fast",)
    ),
    "fan": Words(
        nouns=("a fan", "an electric fan", "a fan humming", "a ventilator"),
        low=("slow", "low"),
        high=("fast", "high-speed"),
    ),
    "siren": Words(
        nouns=("a siren", "an emergency siren", "a police siren", "an ambulance siren"),
        low=("slow",),
        high=("fast", "yelping"),
    ),
    "alarm": Words(nouns=("an alarm", "a beeping alarm", "an alarm beeping", "electronic beeps")),
    "telephone": Words(
        nouns=("a telephone ringing", "a ringing phone", "a telephone", "an old phone ringing"),
        low=("slow",),
        high=("insistent", "fast"),
    ),
    "clock": Words(nouns=("a clock", "a clock ticking", "a ticking clock", "clock ticks")),
    "metronome": Words(nouns=("a metronome", "a metronome clicking", "a clicking metronome")),
    "typewriter": Words(
        nouns=("a typewriter", "typing on a typewriter", "someone typing", "typewriter keys"),
        low=("slow", "hesitant"),
        high=("fast", "hurried"),
    ),
    "heartbeat": Words(nouns=("a heartbeat", "a heart beating", "a beating heart")),
    "footsteps": Words(nouns=("footsteps", "someone walking", "steps", "a person walking")),
    "knocking": Words(nouns=("knocking on a door", "door knocks", "knocking", "someone knocking")),
    "hammer": Words(nouns=("a hammer on metal", "hammering on an anvil", "metal hammering", "a blacksmith hammering")),
    "steam train": Words(nouns=("a steam train", "a train chuffing", "a steam locomotive", "a chuffing train")),
    "sonar": Words(nouns=("a sonar ping", "sonar pings", "a submarine sonar"), low=("slow",), high=("fast",)),
    "drum loop": Words(nouns=("a drum loop", "a drum beat", "drums", "a drum groove")),
    "bass line": Words(nouns=("a bass line", "a bass guitar", "a bass groove", "a plucked bass")),
    "plucked arpeggio": Words(nouns=("a plucked arpeggio", "a guitar arpeggio", "plucked strings", "a harp arpeggio")),
    "bells": Words(nouns=("a bell", "a bell ringing", "a church bell", "a tolling bell")),
    "organ chords": Words(nouns=("organ chords", "an organ", "chords on an organ", "an organ playing chords")),
    "pad chords": Words(nouns=("pad chords", "a synth pad", "ambient pads", "slow synth chords")),
    "sustained note": Words(nouns=("a note", "a sustained note", "a steady note", "a long tone")),
    "drone": Words(nouns=("a drone", "a synth drone", "a humming drone", "a low drone")),
    "melody": Words(nouns=("a melody", "a tune", "a simple melody", "a playful melody")),
    "white noise": Words(nouns=("white noise", "white noise hiss")),
    "pink noise": Words(nouns=("pink noise", "soft pink noise")),
    "brown noise": Words(nouns=("brown noise", "deep brown noise")),
}

ADJECTIVES = {
    ("loudness", "quiet"): ("quiet", "soft", "faint"),
    ("loudness", "loud"): ("loud", "powerful"),
    ("brightness", "dark"): ("dark", "muffled", "dull"),
    ("brightness", "bright"): ("bright", "crisp", "sharp"),
    ("distance", "near"): ("close", "nearby"),
    ("distance", "distant"): ("distant", "faraway"),
}
PHRASES = {
    ("side", "left"): ("on the left", "to the left", "from the left side", "in the left channel"),
    ("side", "right"): ("on the right", "to the right", "from the right side", "in the right channel"),
    ("side", "center"): ("in the center", "in the middle"),
    ("side", "wide"): ("all around", "in wide stereo", "on both sides"),
    ("distance", "near"): ("close by", "up close"),
    ("distance", "distant"): ("in the distance", "far away"),
    ("shape", "fade in"): ("fading in", "slowly getting louder"),
    ("shape", "fade out"): ("fading out", "slowly dying away"),
    ("shape", "approaching"): ("approaching", "coming closer"),
    ("shape", "receding"): ("moving away", "disappearing into the distance"),
}
PASSING = {
    "left": ("passing from left to right", "moving from left to right"),
    "right": ("passing from right to left", "moving from right to left"),
}
SURFACES = {"wood": "on a wooden floor", "gravel": "on gravel", "stone": "on stone"}
DRUM_STYLES = {"open": "with open hi-hats", "sparse": "without much else", "plain": "with hi-hats"}

SINGLE_FORMS = ("{a}", "{a}", "{a}", "{a}", "the sound of {a}", "{a} recorded in stereo", "sound of {a}")
HELD_OUT_SINGLE_FORMS = ("we hear {a}", "an audio clip of {a}", "{a}, nothing else")
PAIR_FORMS = (
    "{a} with {b}",
    "{a} and {b}",
    "{a} over {b}",
    "{a}, {b}",
    "{a} together with {b}",
    "{b} behind {a}",
    "{a} while {b} can be heard",
    "{a} in front of {b}",
)
HELD_OUT_PAIR_FORMS = ("{a} against a background of {b}", "there is {a} as well as {b}", "{a} mixed with {b}")
SEQUENCE_FORMS = ("{a}, then {b}", "{a} followed by {b}", "first {a}, then {b}")
TRIPLE_FORMS = ("{a}, {b} and {c}", "{a} and {b} over {c}", "{a} with {b} and {c}", "{a} over {c} with {b}")
HELD_OUT_TRIPLE_FORMS = ("a scene with {a}, {b} and {c}", "{c}, and over it {a} and {b}")

STATE_CHANCE = {
    "side": {"left": 0.85, "right": 0.85, "wide": 0.35, "center": 0.12},
    "brightness": {"dark": 0.75, "bright": 0.75},
    "loudness": {"quiet": 0.75, "loud": 0.7},
    "distance": {"near": 0.4, "distant": 0.85},
    "rate": {"low": 0.8, "high": 0.8},
    "shape": {"fade in": 0.8, "fade out": 0.8, "approaching": 0.95, "receding": 0.95, "passing": 0.95},
}


def choose_facts(layer: Layer, rng: np.random.Generator, must_state: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Draw the facts a caption states: mostly those that are out of the ordinary."""
    brief = rng.random() < 0.12  # two or three words
    stated = []
    for fact, chances in STATE_CHANCE.items():
        chance = chances.get(getattr(layer, fact), 0.0) * (0.3 if brief else 1.0)
        if layer.shape == "passing" and fact == "side":
            chance = 0.0  # the passage says it
        if rng.random() < chance or fact in must_state:
            stated.append(fact)
    always = {"tempo_bpm": 0.75, "pitch": 0.85, "timbre": 0.75}
    values = {"tempo_bpm": layer.tempo_bpm, "pitch": layer.midi, "timbre": layer.timbre}
    for fact, chance in always.items():
        drawn = rng.random() < chance * (0.4 if brief else 1.0)
        if values[fact] is not None and (drawn or fact in must_state):
            stated.append(fact)
    return tuple(stated)


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def with_article(phrase: str, countable: bool) -> str:
    """Prefix a countable phrase with "a" or "an"."""
    if not countable:
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def tempo_words(layer: Layer, rng: np.random.Generator, number: bool) -> tuple[str, str]:
    """Tempo as (adjective, phrase), one of them empty: "slow", or "at 120 bpm"."""
    tempo = layer.tempo_bpm or 0
    if number or 90 < tempo < 130:
        form = pick(("at {} bpm", "at {} bpm", "at {} beats per minute", "{} bpm"), rng)
        return "", form.format(tempo)
    return pick(("slow", "slow-paced") if tempo <= 90 else ("fast", "quick"), rng), ""


def pitch_phrase(layer: Layer, rng: np.random.Generator) -> str:
    """The note or the key in words."""
    assert layer.midi is not None
    if layer.mode is not None:
        return f"in {NOTE_NAMES[layer.midi % 12]} {layer.mode}"
    return f"{pick(('at', 'at', 'on', 'tuned to'), rng)} {midi_to_name(layer.midi)}"


def adjectives_and_phrases(layer: Layer, rng: np.random.Generator, number: bool) -> tuple[list[str], list[str]]:
    """The stated facts as words before the noun and as phrases behind it."""
    before, behind = [], []
    words = WORDS[layer.kind]
    for fact in layer.stated:
        key = (fact, str(getattr(layer, fact, None)))
        if fact == "tempo_bpm":
            adjective, phrase = tempo_words(layer, rng, number)
            before += [adjective] if adjective else []
            behind += [phrase] if phrase else []
        elif fact == "pitch":
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


def describe(layer: Layer, rng: np.random.Generator, *, number: bool | None = None) -> str:
    """Word one layer: "a distant siren on the left, fading out"; now and then as tags.

    Args:
        number: state the tempo as a number; None draws it.
    """
    number = bool(rng.random() < 0.65) if number is None else number
    before, behind = adjectives_and_phrases(layer, rng, number)
    noun = pick(WORDS[layer.kind].nouns, rng)
    countable = noun.startswith(("a ", "an "))
    noun = noun.split(" ", 1)[1] if countable else noun
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


def caption(
    layers: list[Layer], rng: np.random.Generator, *, held_out_form: bool, sequence: bool, number: bool | None = None
) -> str:
    """Word a whole clip of one to three layers, the last one being the background."""
    phrases = dict(zip("abc", (describe(layer, rng, number=number) for layer in layers), strict=False))
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
