"""Short pieces of our own composition, played by a SoundFont's sampled instruments, with captions and known facts.

    clip = draw_clip(seed, soundfont)               # clip.audio (2, samples) float32, clip.prompt, clip.metadata
    piece, prompt, metadata = plan_clip(seed)       # the same without the sound; needs no SoundFont
    captions(seed, 16)                              # 16 more prompts for it
    python -m data.instruments --out DIR --hours 10 [--soundfont FILE]

| fact | metadata | heard as |
|---|---|---|
| what it is | `form`: piece, note, chord, scale | |
| instruments | `instruments`, `parts` (instrument, role, register, articulation, side) | timbre |
| tempo | `tempo_bpm`; a beat of 6/8 is a dotted quarter | onsets |
| key | `key`: tonic and mode | pitch classes |
| metre, groove | `metre` 4/4, 3/4, 6/8; `groove` of the drums | accents |
| pitch | `pitch`, `pitch_hz` of a single note | |
| dynamics | `dynamics`: loud frames at -28, -21, -15 dBFS; the velocity of the notes | level, timbre |
| space | `space`: dry, room, hall | decay after notes |
| side | `side` of a part: left and right are 20 dB apart | level of the channels |
| course | accompaniment may begin alone, the melody enters, the last bar holds the tonic, the sound fades | |
| length | `seconds_total` | |

`stated` names the facts that the caption states (`tempo_bpm`: as a number; `pace`: as slow or fast).
"""

from data.instruments.clip import Clip, captions, draw_clip, plan_clip
from data.instruments.grooves import GROOVES, KITS
from data.instruments.piece import Part, Piece
from data.instruments.soundfont import find_soundfont
from data.instruments.table import INSTRUMENTS

__all__ = [
    "GROOVES",
    "INSTRUMENTS",
    "KITS",
    "Clip",
    "Part",
    "Piece",
    "captions",
    "draw_clip",
    "find_soundfont",
    "plan_clip",
]
