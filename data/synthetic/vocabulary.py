"""The words of the captions: names of the kinds, adjectives and phrases of the facts, forms of whole captions.

Forms named HELD_OUT_* appear in held-out clips only (`held_out`).
"""

from dataclasses import dataclass


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
    "thunder": Words(nouns=("thunder", "thunder rolling", "a thunderstorm", "thunder rumbling")),
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
        nouns=("a telephone ringing", "a ringing phone", "a telephone", "a phone ringing"),
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
    "pad chords": Words(nouns=("pad chords", "a synth pad", "ambient pads", "synth chords")),
    "sustained note": Words(nouns=("a note", "a sustained note", "a steady note", "a long tone")),
    "drone": Words(nouns=("a drone", "a synth drone", "a humming drone", "a droning synthesizer")),
    "melody": Words(nouns=("a melody", "a tune", "someone playing a melody", "a musical melody")),
    "white noise": Words(nouns=("white noise", "white noise hiss")),
    "pink noise": Words(nouns=("pink noise", "pink noise hiss")),
    "brown noise": Words(nouns=("brown noise", "brown noise rumble")),
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
TEMPO_FORMS = ("at {} bpm", "at {} bpm", "at {} beats per minute", "{} bpm")
SLOW, FAST = ("slow", "slow-paced"), ("fast", "quick")
SURFACES = {"wood": "on a wooden floor", "gravel": "on gravel", "stone": "on stone"}
DRUM_STYLES = {"open": "with open hi-hats", "sparse": "without much else", "plain": "with hi-hats"}

SINGLE_FORMS = ("{a}", "{a}", "{a}", "{a}", "the sound of {a}", "you can hear {a}", "sound of {a}")
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
