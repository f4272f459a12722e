"""The procedural corpus: stereo 44.1 kHz sounds written as signal processing, with captions and known facts.

    clip = draw_clip(seed)          # clip.audio (2, samples) float32, clip.prompt, clip.metadata
    layers, prompt, metadata = plan_clip(seed)      # the same without the sound
    captions(seed, 16)                              # 16 more prompts for it
    python -m data.synthetic --out DIR --clips N

`KINDS` lists the sounds. Every clip carries the facts it was made from, and each can be measured from the waveform
(`infer.metrics` does it):

| fact | metadata | measured as |
|---|---|---|
| tempo | `tempo_bpm` (60..180, multiples of 10) | first strong peak of the onset envelope's autocorrelation |
| pitch | `pitch`, `pitch_hz` (C3..B5) | period of the waveform: autocorrelation or harmonic sum |
| key | `key` | pitch-class profile of the spectrum |
| rate | `rate_hz`, `rate` low/medium/high | onsets or envelope periods a second; for engine and fan the fundamental |
| side | `side` left/right: 20 dB apart; center: equal and correlated; wide: equal and decorrelated | level difference \
and correlation of the two channels |
| brightness | `brightness` dark/neutral/bright | spectral centroid, against the kind's neutral value |
| loudness | `loudness`: loud frames at -34, -20, -12 dBFS | 95th percentile of the 50 ms rms |
| distance | `distance`: distant is 8 dB softer, dull and reverberant | centroid, decay after onsets |
| course | `shape` | level of the first against the last third; `motion` of a passing sound: side over time |
| length | `seconds_total`, `start_seconds`, `seconds` | time above the noise floor (-75 dBFS) |

A layer's `stated` names the facts that the caption states (`tempo_bpm`: as a number; `tempo`: as slow or fast).
"""

from data.synthetic.draw import KINDS, Clip, captions, draw_clip, plan_clip
from data.synthetic.layers import SAMPLE_RATE, Kind, Layer

__all__ = ["KINDS", "SAMPLE_RATE", "Clip", "Kind", "Layer", "captions", "draw_clip", "plan_clip"]
