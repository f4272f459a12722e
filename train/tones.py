"""Teaching the tone path of the spectral autoencoder: losses on what the sines are set to, and sets of tones drawn.

In a spectrogram a missing tone is a few bins of thousands, and a sine that is almost off hardly has a gradient through
its gain. Here amplitudes are compared with measured ones in dB, and frequencies in cents. Tones are also drawn in the
domain of the measurements, without any audio, so that the path learns all pitches and not those of the training clips.

    tones (batch, 3 * NUM_TONES, frames), see `models.tones`
"""

import math

import torch
from torch import Tensor

from models.tones import FAINTEST_TONE, LOWEST_MIDI, MAX_CENTS, NUM_TONES, split_tones

FAINTEST_TEACHING = 1e-6
"""Power, -60 dBFS, up to which a tone may sound where none was measured."""
TINY_POWER = 1e-9
"""Added to a tone's power before the logarithm; far below the faintest tone, so that one that is off has a gradient."""
MAX_NOTES, NUM_HARMONICS = 4, 16


def tone_losses(amplitudes: Tensor, cents: Tensor, tones: Tensor) -> dict[str, Tensor]:
    """Distances between tones played and tones measured.

    Args:
        amplitudes: of the sines, (batch, 2, NUM_TONES, frames).
        cents: of the sines, (batch, NUM_TONES, frames).
        tones: measured.

    Returns:
        "tones/level": mean square of the natural logarithm of amplitude ratios; a tone too faint to matter may be
        fainter still. "tones/pitch": mean square of the cents in shares of `MAX_CENTS`, of the tones there are; louder
        ones count more.
    """
    power, wanted = split_tones(tones.float())
    amplitudes, cents = amplitudes.float(), cents.float()
    ratio = (amplitudes.square() + TINY_POWER).log() - power.clamp_min(FAINTEST_TEACHING).log()
    error = torch.where(power > FAINTEST_TONE, ratio, ratio.clamp_min(0))
    weight = (power.amax(dim=1).clamp_min(FAINTEST_TONE) / FAINTEST_TONE).log()
    pitch_error = ((cents - wanted) / MAX_CENTS).square()
    return {
        "tones/level": (0.5 * error).square().mean(),
        "tones/pitch": (weight * pitch_error).sum() / (weight.sum() + 1),
    }


def drawn_tones(batch: int, frames: int, generator: torch.Generator) -> Tensor:
    """Tones of one to `MAX_NOTES` notes with harmonics, some of them sines, some gliding, wavering or decaying."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    def sometimes(probability: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=generator) < probability).float()

    note = (MAX_NOTES, 1, 1)  # then harmonics, frames
    time = torch.linspace(0, 1, frames)
    harmonics = torch.arange(1, NUM_HARMONICS + 1)[:, None]
    num_notes = torch.randint(1, MAX_NOTES + 1, (batch, 1, 1, 1), generator=generator)
    is_there = torch.arange(MAX_NOTES)[:, None, None] < num_notes
    midi = uniform(LOWEST_MIDI, LOWEST_MIDI + 76, *note) + 12 * harmonics.log2()
    midi = midi + sometimes(0.25, *note) * uniform(-14, 14, *note) * time
    vibrato = sometimes(0.25, *note) * uniform(0, 0.5, *note)
    midi = midi + vibrato * torch.sin(2 * math.pi * uniform(5, 13, *note) * time)
    slope, is_sine = uniform(0.2, 3.5, *note), sometimes(0.25, *note)
    level_db = uniform(-35, -5, *note) - 20 * slope * harmonics.log10() - 90 * is_sine * (harmonics > 1)
    level_db = level_db + uniform(-8, 8, MAX_NOTES, NUM_HARMONICS, 1) * (harmonics > 1)
    level_db = level_db - sometimes(0.5, *note) * uniform(0, 40, *note) * time
    onset = uniform(-1, 0.5, *note).clamp_min(0)
    power = 10 ** (level_db / 10) * is_there * (time >= onset)
    side = torch.where(sometimes(0.5, *note) > 0, uniform(0, 1, *note), torch.tensor(0.5))
    sides = torch.stack(((2 - 2 * side).clamp_max(1), (2 * side).clamp_max(1)), dim=1).square()  # (batch, 2, ...)
    return strongest_tones(power.flatten(1, 2), midi.flatten(1, 2), sides.expand(-1, -1, -1, NUM_HARMONICS, -1))


def strongest_tones(power: Tensor, midi: Tensor, sides: Tensor) -> Tensor:
    """Of partials the strongest near each semitone, as a measurement gives them.

    Args:
        power: of the louder side, (batch, partials, frames).
        midi: their pitches, same shape.
        sides: share of the power on both sides, (batch, 2, ...) with as many elements after that as partials.
    """
    nearest = midi.round()
    slot = (nearest - LOWEST_MIDI).clamp(0, NUM_TONES - 1).long()
    is_inside = (nearest >= LOWEST_MIDI) & (nearest < LOWEST_MIDI + NUM_TONES) & (power > FAINTEST_TONE)
    key = power * is_inside
    empty = torch.zeros(len(power), NUM_TONES, power.shape[-1])
    strongest = empty.scatter_reduce(1, slot, key, "amax")
    chosen = is_inside & (key >= strongest.gather(1, slot))
    values = (*(sides.flatten(2)[:, :, :, None] * power[:, None]).unbind(dim=1), 100 * (midi - nearest))
    return torch.cat([empty.scatter_add(1, slot, value * chosen) for value in values], dim=1)
