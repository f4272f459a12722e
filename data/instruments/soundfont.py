"""Finds, opens and plays a SoundFont (sf2, sf3) with General MIDI presets, by tinysoundfont.

    font = open_soundfont(find_soundfont(None))
    audio = font.play(program=0, strokes=[Stroke(0.0, 1.5, 69, 0.7)], num_samples=88_200)     # (2, samples)

What is played depends on the arguments alone: every call plays on a fresh copy of the font, which shares its samples.
"""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.synthetic.layers import SAMPLE_RATE
from models.errors import UserError

USUAL_PLACES = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/soundfonts/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
    Path("/usr/share/sounds/sf3/MuseScore_General.sf3"),
)
"""Where Debian, and others, install the two SoundFonts under the MIT licence; the first one is the better."""
_GAIN_DB = -12.0
_VOICES = 256


@dataclass(frozen=True)
class Stroke:
    """One note to play."""

    start_seconds: float
    seconds: float
    midi: int
    """MIDI number, or percussion key."""
    velocity: float
    """0 to 1."""


class SoundFont:
    """An open SoundFont.

    Raises:
        UserError: no such file, no SoundFont in it, or tinysoundfont is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"no SoundFont at {path}")
        self.path = path
        self._library = _import_library()
        try:
            self._font = self._library.SoundFont(str(path))
        except Exception as error:
            raise UserError(f"{path} is no SoundFont that tinysoundfont can read: {error}") from error

    def play(self, program: int, strokes: list[Stroke], num_samples: int, drums: bool = False) -> np.ndarray:
        """Play notes on one instrument: (2, num_samples) float32, at the font's own level.

        A note that is still sounding when its key is struck again ends there.

        Raises:
            UserError: the font has no such preset.
        """
        if self._font.get_preset_index(128 if drums else 0, program) < 0:
            raise UserError(
                f"{self.path} has no preset for {'drum kit' if drums else 'program'} {program}: "
                "use a General MIDI SoundFont such as FluidR3 GM"
            )
        player = self._library.SoundFont(self._font)
        player.set_output(self._library.OutputMode.StereoInterleaved, SAMPLE_RATE, _GAIN_DB)
        player.set_max_voices(_VOICES)
        player.channel_set_preset_number(0, program, drums)
        audio = np.zeros((num_samples, 2), dtype=np.float32)
        now = 0
        for at, midi, velocity in _events(strokes):
            if at > now and now < num_samples:
                player.render(audio[now : min(at, num_samples)].data)
                now = min(at, num_samples)
            if velocity > 0:
                player.channel_note_on(0, midi, velocity)
            else:
                player.channel_note_off(0, midi)
        if now < num_samples:
            player.render(audio[now:].data)
        return np.ascontiguousarray(audio.T)


def _events(strokes: list[Stroke]) -> list[tuple[int, int, float]]:
    """Note-ons and note-offs (velocity 0) in order: (sample, key, velocity); offs come before ons of the same time."""
    ordered = sorted(strokes, key=lambda stroke: (stroke.start_seconds, stroke.midi))
    following: dict[int, float] = {}
    events = []
    for stroke in reversed(ordered):
        end = min(stroke.start_seconds + stroke.seconds, following.get(stroke.midi, np.inf))
        following[stroke.midi] = stroke.start_seconds
        events.append((round(stroke.start_seconds * SAMPLE_RATE), stroke.midi, stroke.velocity))
        events.append((round(end * SAMPLE_RATE), stroke.midi, 0.0))
    return sorted(events, key=lambda event: (event[0], event[2], event[1]))


@lru_cache(maxsize=2)
def open_soundfont(path: Path) -> SoundFont:
    """Open a SoundFont, once in a process: FluidR3 takes 0.3 s and 300 MB."""
    return SoundFont(path)


def find_soundfont(path: Path | None) -> Path:
    """Return the SoundFont that was named, or the one that is installed.

    Raises:
        UserError: none was named and none is installed.
    """
    if path is not None:
        return path
    for place in USUAL_PLACES:
        if place.is_file():
            return place
    raise UserError(
        "no SoundFont is installed: install Debian's fluid-soundfont-gm (FluidR3 GM, MIT licence), "
        "or name a General MIDI SoundFont with --soundfont FILE"
    )


def _import_library() -> Any:
    """The binding itself: the package's own classes play to a sound card."""
    try:
        return importlib.import_module("tinysoundfont._tinysoundfont")
    except ModuleNotFoundError as error:
        raise UserError(
            "pieces played by instruments need tinysoundfont: pip install --no-deps tinysoundfont "
            "(what it lists, pyaudio, needs PortAudio to build and is not used here)"
        ) from error
