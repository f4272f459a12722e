"""Plays a composed clip: each part by the SoundFont, brought to its level, placed, and put into a common room."""

from collections.abc import Sequence

import numpy as np

from data.instruments.grooves import KITS
from data.instruments.piece import LEAD_IN_SECONDS, TAIL_SECONDS, Part, Piece
from data.instruments.score import Note
from data.instruments.soundfont import SoundFont, Stroke
from data.instruments.table import ARPEGGIO, BASS, CHORDS, DRUMS, HARMONY, INSTRUMENTS, MELODY, PIECE
from data.synthetic.layers import samples
from data.synthetic.signals import db_to_gain, fft_size, irfft, ramp, rfft
from data.synthetic.space import SIDE_DB, active_level, room

LEVELS_DB = {"soft": -28.0, "medium": -21.0, "loud": -15.0}
"""Level of the loud 50 ms frames (95th percentile) of a clip, dBFS."""
BALANCE_DB = {MELODY: 0.0, PIECE: 0.0, HARMONY: -4.0, CHORDS: -6.0, ARPEGGIO: -4.0, BASS: -3.0, DRUMS: -1.0}
"""Level of a part in an ensemble."""
REVERB = {"dry": (0.3, 0.0), "room": (0.6, 0.12), "hall": (2.2, 0.4)}
"""Reverberation time in seconds, and level of the reverberation relative to the direct sound."""
SPREAD = {MELODY: 0.0, PIECE: 0.0, HARMONY: 0.3, CHORDS: 0.35, ARPEGGIO: -0.35, BASS: 0.0, DRUMS: 0.0}
"""Where the parts of an ensemble sit, -1 (left) to 1."""
NOISE_FLOOR_DB = -80.0
PEAK = 0.9
TIMING_SECONDS = 0.004
"""Standard deviation of a player's timing in an ensemble or piece."""


def perform(piece: Piece, scores: Sequence[Sequence[Note]], font: SoundFont, rng: np.random.Generator) -> np.ndarray:
    """Play a clip: (2, samples) float32 at 44,100 Hz, peak below 0.95.

    Args:
        scores: the notes of each part.
    """
    num_samples = samples(piece.seconds)
    floor = rng.standard_normal((2, num_samples), dtype=np.float32) * np.float32(db_to_gain(NOISE_FLOOR_DB))
    mixed = np.zeros((2, num_samples), dtype=np.float32)
    for part, notes in zip(piece.parts, scores, strict=True):
        sound = play_part(part, piece, notes, font, num_samples, rng)
        sound *= db_to_gain(BALANCE_DB[part.role]) / (active_level(sound) + 1e-9)
        mixed += seat(part, sound, alone=len(piece.parts) == 1)
    mixed = reverberate(mixed, piece.space)
    mixed -= np.mean(mixed, axis=-1, keepdims=True)
    mixed *= ramp(num_samples, 0.0, 0.6 * TAIL_SECONDS[piece.space])
    mixed *= db_to_gain(LEVELS_DB[piece.dynamics]) / (active_level(mixed) + 1e-9)
    return (mixed * min(1.0, PEAK / float(np.max(np.abs(mixed)))) + floor).astype(np.float32)


def play_part(
    part: Part, piece: Piece, notes: Sequence[Note], font: SoundFont, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Play the notes of one part as a player does, not quite in time: (2, samples)."""
    drums = part.role == DRUMS
    preset = KITS[part.instrument].program if drums else INSTRUMENTS[part.instrument].program
    transpose = 0 if drums else INSTRUMENTS[part.instrument].transpose
    loose = TIMING_SECONDS if piece.form == "piece" else 0.0
    beat = piece.beat_seconds
    strokes = [
        Stroke(
            max(0.0, LEAD_IN_SECONDS + note.start * beat + loose * float(rng.standard_normal())),
            note.length * beat,
            note.midi + transpose,
            note.velocity,
        )
        for note in notes
    ]
    return font.play(preset, strokes, num_samples, drums)


def seat(part: Part, sound: np.ndarray, alone: bool) -> np.ndarray:
    """Place a part: on the left or right one channel is 20 dB softer; in the centre it keeps its own stereo image."""
    if part.side in ("left", "right"):
        mono = sound.mean(axis=0)
        mono *= active_level(sound) / (active_level(mono[None]) + 1e-9)
        near, far = 1.2, 1.2 * db_to_gain(-SIDE_DB)
        return np.stack((near * mono, far * mono) if part.side == "left" else (far * mono, near * mono))
    if alone:
        return sound
    position = SPREAD[part.role]
    gains = np.array([[min(1.0, 1.0 - position)], [min(1.0, 1.0 + position)]], dtype=np.float32)
    return sound * gains


def reverberate(audio: np.ndarray, space: str) -> np.ndarray:
    """Add the reverberation of a room: (2, samples) -> (2, samples)."""
    seconds, wet = REVERB[space]
    if wet == 0.0:
        return audio
    response = room(seconds, 2)
    size = fft_size(audio.shape[-1] + response.shape[-1])
    tail = irfft(rfft(audio, size) * rfft(response, size), size)[:, : audio.shape[-1]]
    return audio + wet * tail
