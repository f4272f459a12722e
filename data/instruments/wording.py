"""Captions: from the facts of a clip to words a person might type, from two words to two clauses.

`choose_facts` decides which facts a caption states; `caption` words them. The words are in `vocabulary`.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from data.instruments.ensembles import chamber_of
from data.instruments.grooves import GROOVES, KITS
from data.instruments.piece import Part, Piece
from data.instruments.table import DRUMS, INSTRUMENTS
from data.instruments.vocabulary import (
    ACCOMPANIMENTS,
    ADJECTIVES,
    BARE_CHORD_FORMS,
    BARE_DRUM_FORMS,
    BARE_NOTE_FORMS,
    BARE_SCALE_FORMS,
    CHAMBER_FORMS,
    CHORD_FORMS,
    DRUM_FORMS,
    DUO_FORMS,
    FRAMES,
    GROOVE_FORMS,
    GROUP_FORMS,
    GUITAR_FORMS,
    HELD_NOTE_FORMS,
    HELD_OUT_FRAMES,
    HELD_OUT_PAIR_FORMS,
    NOTE_FORMS,
    PAIR_FORMS,
    PHRASES,
    REPEATED_NOTE_FORMS,
    ROLE_FORMS,
    SCALE_FORMS,
    SIZES,
    TAGS,
    TEMPO_FORMS,
    TONIC_NAMES,
)

STATE_CHANCE: dict[str, dict[str, float]] = {
    "dynamics": {"soft": 0.6, "loud": 0.6},
    "space": {"dry": 0.15, "hall": 0.45},
    "mood": dict.fromkeys(("sad", "happy", "calm", "dramatic"), 0.4),
    "metre": {"4/4": 0.1, "3/4": 0.5, "6/8": 0.5},
    "register": {"low": 0.6, "high": 0.6},
    "articulation": {"staccato": 0.7, "legato": 0.5},
    "side": {"left": 0.85, "right": 0.85, "center": 0.05},
}
MOST_FACTS = 5
BRIEF_SHARE, TAG_SHARE = 0.15, 0.15


def choose_facts(piece: Piece, rng: np.random.Generator, must_state: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Draw the facts that a caption states: mostly those that are out of the ordinary.

    `tempo_bpm` is a tempo stated as a number, `pace` one stated as slow or fast.
    """
    scale = 0.25 if rng.random() < BRIEF_SHARE else 1.0
    stated = [
        fact
        for fact, chance in STATE_CHANCE.items()
        if rng.random() < scale * chance.get(str(fact_of(piece, fact)), 0.0)
    ]
    if piece.key is not None and rng.random() < (0.9 if piece.form in ("chord", "scale") else 0.6) * scale:
        stated.append("key")
    if piece.midi is not None and rng.random() < 0.9 * max(scale, 0.6):
        stated.append("pitch")
        stated = [fact for fact in stated if fact != "register" or rng.random() < 0.2]
    if piece.groove is not None and rng.random() < 0.75 * max(scale, 0.5):
        stated.append("groove")
    if piece.has_tempo and rng.random() < 0.75 * scale:
        stated.append("pace" if piece.pace and rng.random() < 0.45 else "tempo_bpm")
    rng.shuffle(stated)
    kept = [fact for fact in stated if fact not in must_state][: MOST_FACTS - len(must_state)]
    return (*must_state, *kept)


def fact_of(piece: Piece, name: str) -> object:
    """A fact of the clip: its own, or its first part's; the side only where there are at most two players."""
    if name in ("register", "articulation", "side"):
        return getattr(piece.parts[0], name) if len(piece.parts) == 1 or name == "articulation" else None
    if name == "metre" and piece.form != "piece":
        return None
    return getattr(piece, name, None)


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def is_plural(word: str) -> bool:
    """Whether an instrument's name is a plural, which takes no article."""
    return word.endswith("s") and not word.endswith(("ss", "Rhodes"))


def with_articles(text: str) -> str:
    """Turn each `@` into "a" or "an", as what follows it asks for."""
    text = re.sub(r"@(?=[aeioAEIO]|u[np]|F[ #]|8)", "an ", text)
    return text.replace("@", "a ")


def name_part(part: Part, rng: np.random.Generator) -> str:
    """A name of a part's instrument; the first one half of the time."""
    words = KITS[part.instrument].words if part.instrument in KITS else INSTRUMENTS[part.instrument].words
    return words[0] if rng.random() < 0.5 else pick(words, rng)


def name_groove(piece: Piece, rng: np.random.Generator) -> str:
    """What the groove is called; its own name two times out of three."""
    if piece.groove is None:
        return ""
    words = GROOVES[piece.groove].words
    return piece.groove if not words or rng.random() < 0.67 else pick(words, rng)


def spell_key(piece: Piece, rng: np.random.Generator) -> str:
    """A key in words: "E flat minor"."""
    assert piece.key is not None
    return f"{pick(TONIC_NAMES[piece.key.tonic], rng)} {piece.key.mode}"


def spell_pitch(midi: int, rng: np.random.Generator) -> str:
    """A pitch in words: "A4", "B flat 3"."""
    name = pick(TONIC_NAMES[midi % 12], rng)
    return f"{name}{' ' if len(name) > 2 else ''}{midi // 12 - 1}"


def adjectives_and_phrases(piece: Piece, rng: np.random.Generator, tags: bool) -> tuple[list[str], list[str]]:
    """The stated facts as adjectives and as phrases that follow; pitch and groove belong to the noun."""
    before, behind = [], []
    for name in piece.stated:
        key = (name, str(fact_of(piece, name)))
        if name == "tempo_bpm":
            behind.append(pick(("{} bpm",) if tags else TEMPO_FORMS, rng).format(piece.tempo_bpm))
        elif name == "key" and piece.form == "piece":
            behind.append(("" if tags else "in ") + spell_key(piece, rng))
        elif tags and key in TAGS:
            behind.append(pick(TAGS[key], rng))
        elif key in ADJECTIVES and (key not in PHRASES or rng.random() < 0.4):
            before.append(pick(ADJECTIVES[key], rng))
        elif key in PHRASES:
            behind.append(pick(PHRASES[key], rng))
    rng.shuffle(before)
    rng.shuffle(behind)
    return before, behind


def caption(piece: Piece, rng: np.random.Generator, *, held_out_form: bool) -> str:
    """Word a clip."""
    tags = not held_out_form and piece.form == "piece" and rng.random() < TAG_SHARE
    before, behind = adjectives_and_phrases(piece, rng, tags)
    if tags:
        return ", ".join([_tag_noun(piece, rng), *rng.permutation([*before, *behind]).tolist()])
    frame = pick(HELD_OUT_FRAMES if held_out_form else FRAMES, rng)
    adjectives = "".join(f"{adjective} " for adjective in before)
    text = _Wording(rng, adjectives, held_out_form, sentence=frame == "{x}").noun(piece)
    for i, phrase in enumerate(behind):
        text += (", " if i >= 2 or re.match(r"\d", phrase) else " ") + phrase
    text = frame.format(x=text)
    style = rng.random()
    if style < 0.2:
        text = text[0].upper() + text[1:]
    return text + "." if style < 0.1 else text


def _tag_noun(piece: Piece, rng: np.random.Generator) -> str:
    names = [name_part(part, rng) for part in piece.parts]
    if "groove" in piece.stated:
        names.insert(int(rng.integers(len(names) + 1)), name_groove(piece, rng))
    return ", ".join(names)


@dataclass(frozen=True)
class _Wording:
    """How one caption is worded."""

    rng: np.random.Generator
    adjectives: str
    held_out_form: bool
    sentence: bool
    """Whether it may be a sentence with a verb."""

    def noun(self, piece: Piece) -> str:
        """What the clip is, with its adjectives."""
        words = [name_part(part, self.rng) for part in piece.parts]
        groove = "groove" in piece.stated
        if piece.form != "piece":
            return self._exercise(piece, words[0])
        if len(words) == 1 and piece.drums:
            forms = DRUM_FORMS if groove else BARE_DRUM_FORMS
            return self._fill(forms, words[0], groove=name_groove(piece, self.rng), kit=_alone(words[0]))
        if len(words) == 1:
            return self._lead(piece.parts[0], words[0])
        if len(words) == 2 and not groove:
            if self.held_out_form or self.rng.random() < 0.65:
                return self._pair(piece, words)
            return self._fill(DUO_FORMS, words[0], v=words[1])
        order = words if self.rng.random() < 0.6 else self.rng.permutation(words).tolist()
        listed = f"{', '.join(order[:-1])} and {order[-1]}"
        size = pick(SIZES[len(words)], self.rng)
        family = chamber_of(piece)
        if family is not None and self.rng.random() < 0.6:
            return self._fill(CHAMBER_FORMS, "", list=listed, size=SIZES[len(words)][-1], family=family)
        forms = GROOVE_FORMS if groove else GROUP_FORMS
        return self._fill(forms, "", list=listed, size=size, groove=name_groove(piece, self.rng))

    def _fill(self, forms: tuple[str, ...], word: str, **others: str) -> str:
        """Fill a form in with an instrument's name and the adjectives."""
        plural = is_plural(word)
        form = pick(tuple(form for form in forms if self.sentence or "{plays}" not in form), self.rng)
        if plural:  # no article before a plural that is not followed by another noun
            form = re.sub(r"@(\{adj\})?\{w\}(?=$| playing)", r"\1{w}", form)
        names = {"w": word, "aw": word if plural else f"@{word}", "plays": "play" if plural else "plays"}
        return with_articles(form.format(adj=self.adjectives, **names, **others))

    def _lead(self, part: Part, word: str) -> str:
        guitar = INSTRUMENTS[part.instrument].family == "guitar" and part.role in GUITAR_FORMS
        forms = GUITAR_FORMS if guitar and self.rng.random() < 0.4 else ROLE_FORMS
        return self._fill(forms[part.role], word)

    def _pair(self, piece: Piece, words: list[str]) -> str:
        first, second = piece.parts
        a = self._lead(first, words[0])
        plain = replace(self, adjectives="")
        b = _alone(words[1]) if second.role == DRUMS else plain._fill(ACCOMPANIMENTS[second.role], words[1])
        if first.side != "center":  # two players on two sides
            a, b = (f"{a} {pick(PHRASES['side', first.side], self.rng)}",
                    f"{b} {pick(PHRASES['side', second.side], self.rng)}")  # fmt: skip
        return pick(HELD_OUT_PAIR_FORMS if self.held_out_form else PAIR_FORMS, self.rng).format(a=a, b=b)

    def _exercise(self, piece: Piece, word: str) -> str:
        if piece.form == "note":
            if "pitch" not in piece.stated or piece.midi is None:
                return self._fill(BARE_NOTE_FORMS, word)
            held = piece.num_bars == 1 and INSTRUMENTS[piece.parts[0].instrument].sustained
            forms = NOTE_FORMS + (HELD_NOTE_FORMS if held else REPEATED_NOTE_FORMS if piece.num_bars > 1 else ())
            return self._fill(forms, word, p=spell_pitch(piece.midi, self.rng))
        stated = "key" in piece.stated
        chord, scale = (CHORD_FORMS, SCALE_FORMS) if stated else (BARE_CHORD_FORMS, BARE_SCALE_FORMS)
        return self._fill(chord if piece.form == "chord" else scale, word, k=spell_key(piece, self.rng))


def _alone(word: str) -> str:
    """An instrument's name with its article."""
    return with_articles(word if is_plural(word) else f"@{word}")
