"""What a clip is: its parts and every fact about it that can be heard and said."""

from dataclasses import dataclass, field

from data.instruments.grooves import METRES
from data.instruments.harmony import Key
from data.instruments.table import DRUMS
from data.synthetic.layers import midi_to_hz, midi_to_name

FORMS = ("piece", "note", "chord", "scale")
"""A composed piece; one note, held or repeated; one chord; a scale up and down."""
REGISTERS = ("low", "middle", "high")
DYNAMICS = ("soft", "medium", "loud")
ARTICULATIONS = ("staccato", "normal", "legato")
SPACES = ("dry", "room", "hall")
SIDES = ("left", "center", "right")
SLOW_BPM, FAST_BPM = 80, 132
"""Tempos up to which a piece is slow, and from which it is fast."""
LEAD_IN_SECONDS = 0.05
TAIL_SECONDS = {"dry": 0.8, "room": 1.2, "hall": 2.2}
"""After the last note's end: what rings on in a space, fading to silence."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One player."""

    instrument: str
    """A name in `table.INSTRUMENTS`, or in `grooves.KITS` where the role is drums."""
    role: str
    register: str = "middle"
    articulation: str = "normal"
    side: str = "center"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """All facts of a clip; None where a fact does not apply."""

    form: str
    parts: tuple[Part, ...]
    tempo_bpm: int
    metre: str = "4/4"
    num_bars: int
    """Bars with the last one, in which the final chord is held; of a note or chord, how often it is struck."""
    key: Key | None = None
    midi: int | None = None
    """The pitch of a single note."""
    dynamics: str = "medium"
    space: str = "room"
    groove: str | None = None
    """A name in `grooves.GROOVES`."""
    stated: tuple[str, ...] = field(default=())
    """Facts that the caption states."""

    @property
    def beat_seconds(self) -> float:
        return 60.0 / self.tempo_bpm

    @property
    def num_beats(self) -> int:
        return self.num_bars * METRES[self.metre]

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return round(LEAD_IN_SECONDS + self.num_beats * self.beat_seconds + TAIL_SECONDS[self.space], 4)

    @property
    def drums(self) -> Part | None:
        return next((part for part in self.parts if part.role == DRUMS), None)

    @property
    def pitched(self) -> tuple[Part, ...]:
        """The parts that are no drums."""
        return tuple(part for part in self.parts if part.role != DRUMS)

    @property
    def mood(self) -> str | None:
        """What key, tempo and dynamics sound like together, where they agree."""
        if self.form != "piece" or self.key is None:
            return None
        dark = "minor" in self.key.mode or self.key.mode == "phrygian"
        bright = self.key.mode in ("major", "lydian", "major pentatonic")
        if dark and self.pace == "slow":
            return "sad"
        if dark and self.dynamics == "loud":
            return "dramatic"
        if bright and self.pace == "fast":
            return "happy"
        if bright and self.pace == "slow" and self.dynamics != "loud":
            return "calm"
        return None

    @property
    def has_tempo(self) -> bool:
        """Whether the beat can be heard: in a single note or chord there is none."""
        return self.form in ("piece", "scale")

    @property
    def pace(self) -> str | None:
        """`slow` or `fast`, where the tempo is; a beat of 6/8 is half as long again as one of 4/4."""
        quarters = self.tempo_bpm * (1.5 if self.metre == "6/8" else 1.0)
        if not self.has_tempo:
            return None
        return "slow" if quarters <= SLOW_BPM else "fast" if quarters >= FAST_BPM else None

    def to_metadata(self) -> dict:
        """The facts as plain JSON values; what does not apply is left out."""
        facts: dict = {
            "form": self.form,
            "instruments": [part.instrument for part in self.parts],
            "parts": [
                {
                    "instrument": part.instrument,
                    "role": part.role,
                    "register": part.register,
                    "articulation": part.articulation,
                    "side": part.side,
                }
                for part in self.parts
            ],
            "dynamics": self.dynamics,
            "space": self.space,
            "stated": list(self.stated),
        }
        if self.has_tempo:
            facts["tempo_bpm"] = self.tempo_bpm
        if self.form == "piece":
            facts["metre"] = self.metre
        if self.key is not None:
            facts["key"] = str(self.key)
        if self.midi is not None:
            facts["pitch"], facts["pitch_hz"] = midi_to_name(self.midi), round(midi_to_hz(self.midi), 3)
        if self.groove is not None:
            facts["groove"] = self.groove
        if self.mood is not None:
            facts["mood"] = self.mood
        return facts
