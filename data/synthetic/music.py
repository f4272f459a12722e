"""Drums, instruments and noises."""

import numpy as np

from data.synthetic.layers import Kind, Layer, midi_to_hz, samples
from data.synthetic.signals import (
    beats,
    burst_bank,
    decay,
    noise,
    oscillator,
    ramp,
    rolloff,
    scatter,
    struck,
    sweep,
    wander,
)

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (0, 3, 0, 4))
PLUCK = tuple((float(k), k**-1.1, 0.3 / k**0.6) for k in range(1, 10))
BELL = ((1.0, 1.0, 0.8), (2.0, 0.45, 0.5), (3.0, 0.3, 0.35), (4.2, 0.25, 0.22), (5.4, 0.15, 0.15))
TIMBRES = {
    "flute-like": (1.0, 0.25, 0.08, 0.02),
    "pure sine": (1.0,),
    "organ-like": (1.0, 0.6, 0.3, 0.45, 0.05, 0.15, 0.02, 0.25),
    "string-like": rolloff(16, 1.0),
    "clarinet-like": (1.0, 0.02, 0.6, 0.02, 0.4, 0.02, 0.2, 0.01, 0.1),
    "brass-like": (0.7, 1.0, 0.9, 0.7, 0.55, 0.4, 0.3, 0.2, 0.12, 0.07),
}


def degree_to_midi(layer: Layer, degree: int) -> int:
    """MIDI note of a scale degree (0 = tonic, 7 = tonic an octave up) in the layer's key."""
    assert layer.midi is not None
    octave, step = divmod(degree, 7)
    return layer.midi + 12 * octave + SCALES[layer.mode or "major"][step]


def place_notes(layer: Layer, times: np.ndarray, midis: list[int], notes: dict[int, np.ndarray]) -> np.ndarray:
    """Scatter one rendered note per onset: (1, samples)."""
    order = sorted(notes)
    choice = np.array([order.index(midi) for midi in midis])
    return scatter(layer.num_samples, times, [notes[midi] for midi in order], choice, np.ones(len(times)))


def held_note(hz: float, seconds: float, harmonics: tuple[float, ...], attack: float, release: float) -> np.ndarray:
    """An even tone with a soft start and end."""
    length = samples(seconds)
    return oscillator(hz, length, harmonics) * ramp(length, attack, release)


def render_drums(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Four on the floor: kick on every beat, snare on two and four, hats on the eighths."""
    kick = 1.4 * sweep(150, 45, 0.22) * decay(0.22, 0.06)
    kick += 0.7 * burst_bank("kick", ((60, 0), (200, 0), (3000, -6), (9000, -14)), 0.22, 0.006)[0]
    snare = 0.45 * burst_bank("snare", ((150, -10), (400, -2), (3000, 0), (12000, -8)), 0.18, 0.03)[0]
    snare[: samples(0.08)] += 0.25 * sweep(240, 170, 0.08)
    hat = 0.2 * burst_bank("hat", ((3000, -30), (7000, 0), (16000, 0)), 0.05, 0.01)[0]
    opened = 0.2 * burst_bank("open hat", ((3000, -30), (7000, 0), (16000, 0)), 0.25, 0.05)[0]
    times = beats(layer.seconds, layer.beat_seconds)
    backbeat = times[1::2]
    eighths = np.concatenate((times, times + layer.beat_seconds / 2)) if layer.timbre != "sparse" else times
    eighths = eighths[eighths < layer.seconds - 0.1]
    parts = [(times, kick), (backbeat, snare), (eighths, opened if layer.timbre == "open" else hat)]
    audio = np.zeros((1, layer.num_samples), dtype=np.float32)
    for onsets, kernel in parts:
        audio += scatter(layer.num_samples, onsets, [kernel], np.zeros(len(onsets), dtype=int), np.ones(len(onsets)))
    if rng.random() < 0.5:  # a fill on the last beat
        fill = times[-1] + layer.beat_seconds * np.array([0.25, 0.5, 0.75])
        fill = fill[fill < layer.seconds - 0.1]
        audio += scatter(layer.num_samples, fill, [snare], np.zeros(len(fill), dtype=int), np.full(len(fill), 0.5))
    return audio


def render_bass(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A bass line: one plucked low note on every beat, the root on the first of each bar."""
    times = beats(layer.seconds, layer.beat_seconds)
    pattern = [(0, 0, 4, 4), (0, 4, 7, 4), (0, 2, 4, 2), (0, 0, 0, 4)][rng.integers(4)]
    progression = PROGRESSIONS[rng.integers(4)]
    midis = [degree_to_midi(layer, progression[i // 4 % 4] + pattern[i % 4]) - 12 for i in range(len(times))]
    length = layer.beat_seconds * 0.95
    notes = {
        midi: held_note(midi_to_hz(midi), length, rolloff(8, 1.3), 0.004, 0.05)
        * np.exp2(-np.arange(samples(length)) / samples(0.3)).astype("f4")
        for midi in set(midis)
    }
    return place_notes(layer, times, midis, notes)


def render_arpeggio(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Plucked strings: broken chords, one note on every beat."""
    times = beats(layer.seconds, layer.beat_seconds, 0.4)
    figure = [(0, 2, 4, 7), (0, 4, 2, 4), (7, 4, 2, 0), (0, 2, 4, 2)][rng.integers(4)]
    progression = PROGRESSIONS[rng.integers(4)]
    midis = [degree_to_midi(layer, progression[i // 4 % 4] + figure[i % 4]) for i in range(len(times))]
    return place_notes(layer, times, midis, {m: struck(midi_to_hz(m), PLUCK, 1.4) for m in set(midis)})


def render_bells(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """One bell, struck on every beat and left to ring at the end."""
    assert layer.pitch_hz is not None
    bell = struck(layer.pitch_hz, BELL, 2.2)
    times = beats(layer.seconds, layer.beat_seconds, min(1.5, 0.4 * layer.seconds))
    return scatter(layer.num_samples, times, [bell], np.zeros(len(times), dtype=int), rng.uniform(0.9, 1.0, len(times)))


def render_chords(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Triads: an organ that strikes one on every beat and changes it every four, or a pad that swells every 3 s."""
    organ = layer.kind == "organ chords"
    step, chords_each = (layer.beat_seconds, 4) if organ else (3.0, 1)
    progression = PROGRESSIONS[rng.integers(4)]
    harmonics = TIMBRES["organ-like"] if organ else rolloff(10, 1.4)
    attack, release = (0.008, 0.06) if organ else (0.5, 0.8)
    sounding = 0.75 * step if organ else step + release
    times = beats(layer.seconds, step, 0.4)
    audio = np.zeros((2, layer.num_samples), dtype=np.float32)
    for i, time in enumerate(times):
        length = min(sounding, layer.seconds - time)
        for voice in (0, 2, 4):
            hz = midi_to_hz(degree_to_midi(layer, progression[i // chords_each % 4] + voice))
            start = samples(time)
            for ear, detune in enumerate((0.9985, 1.0015)):
                note = held_note(hz * detune, length, harmonics, attack, min(release, length / 2))
                room = audio[ear, start : start + len(note)]
                room += note[: len(room)]
    return audio


def render_note(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """One long note with a breath of noise, slight vibrato in some timbres, a soft end."""
    assert layer.pitch_hz is not None
    n = layer.num_samples
    hz: float | np.ndarray = layer.pitch_hz
    if layer.timbre in ("flute-like", "string-like"):
        hz = layer.pitch_hz * (1 + 0.003 * oscillator(5.2, n) * ramp(n, min(1.0, 0.3 * layer.seconds), 0.0))
    tone = oscillator(hz, n, TIMBRES[layer.timbre or "flute-like"])[None]
    if layer.timbre == "flute-like":
        tone = tone + 0.03 * noise(rng, 1, n, ((300, -20), (1500, 0), (5000, -6), (16000, -20)))
    return tone * ramp(n, min(0.15, 0.1 * layer.seconds), min(0.8, 0.25 * layer.seconds))


def render_melody(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A tune: one note on every beat, moving by steps and small leaps, home at the end."""
    times = beats(layer.seconds, layer.beat_seconds, 0.4)
    degrees = np.clip(np.cumsum(rng.choice([-2, -1, 1, 2], len(times))), -2, 7)
    degrees[0] = degrees[-1] = 0
    midis = [degree_to_midi(layer, int(degree)) for degree in degrees]
    if layer.timbre == "piano-like":
        notes = {m: struck(midi_to_hz(m), PLUCK, 1.0) for m in set(midis)}
    else:
        harmonics = TIMBRES[layer.timbre or "flute-like"]
        fade = np.exp2(-np.arange(samples(layer.beat_seconds * 0.9)) / samples(0.35)).astype("f4")
        notes = {
            m: held_note(midi_to_hz(m), layer.beat_seconds * 0.9, harmonics, 0.012, 0.06) * fade for m in set(midis)
        }
    return place_notes(layer, times, midis, notes)


def render_color(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """White, pink (-3 dB an octave) or brown (-6 dB an octave) noise."""
    slope = {"white noise": 0.0, "pink noise": -3.01, "brown noise": -6.02}[layer.kind]
    shape = tuple((20.0 * 2**k, slope * k) for k in range(11))
    return noise(rng, 2, layer.num_samples, ((10.0, -20.0), *shape))


def render_hum(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A synthesiser drone: detuned saw waves whose filter breathes slowly."""
    assert layer.pitch_hz is not None
    n = layer.num_samples
    dull, sharp = rolloff(6, 2.0), rolloff(20, 0.9)
    breath = wander(rng, n, 0.4)
    ears = [
        sum(oscillator(layer.pitch_hz * d, n, dull) + breath * oscillator(layer.pitch_hz * d, n, sharp) for d in detune)
        for detune in ((0.9982, 1.001), (1.0018, 0.999))
    ]
    return np.stack(ears).astype(np.float32)


KINDS = (
    Kind(
        name="drum loop",
        weight=6.0,
        render=render_drums,
        group="music",
        tempo=(60, 180),
        timbres=("plain", "open", "sparse"),
    ),
    Kind(name="bass line", render=render_bass, group="music", tempo=(60, 180), midi=(48, 59), keyed=True),
    Kind(name="plucked arpeggio", render=render_arpeggio, group="music", tempo=(60, 180), midi=(55, 66), keyed=True),
    Kind(name="bells", weight=1.5, render=render_bells, group="music", tempo=(60, 120), midi=(60, 83), min_seconds=3.0),
    Kind(
        name="organ chords",
        render=render_chords,
        group="music",
        tempo=(60, 180),
        midi=(54, 65),
        keyed=True,
        min_seconds=4.0,
    ),
    Kind(name="pad chords", render=render_chords, group="music", midi=(54, 65), keyed=True, min_seconds=5.0, bed=True),
    Kind(name="sustained note", weight=6.0, render=render_note, group="music", midi=(48, 83), timbres=tuple(TIMBRES)),
    Kind(name="drone", weight=1.5, render=render_hum, group="music", midi=(48, 59), bed=True),
    Kind(
        name="melody",
        render=render_melody,
        group="music",
        tempo=(60, 180),
        midi=(60, 71),
        keyed=True,
        timbres=("flute-like", "piano-like", "clarinet-like", "organ-like"),
        min_seconds=4.0,
    ),
    Kind(name="white noise", render=render_color, group="nature", bed=True, colored=False),
    Kind(name="pink noise", render=render_color, group="nature", bed=True, colored=False),
    Kind(name="brown noise", render=render_color, group="nature", bed=True, colored=False),
)
