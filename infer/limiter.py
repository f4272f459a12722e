"""A look-ahead limiter: sound above the ceiling is turned down, smoothly and in time; all else passes bit for bit.

The sound is divided into blocks. A gain stands at every border between two blocks and runs linearly from one to the
next. Each gain is at most what its neighbouring blocks need, so no sample passes the ceiling; ahead of a loud block it
falls over `ATTACK_BLOCKS` blocks, and behind one it rises by at most `RELEASE_DB_PER_SECOND`. Blocks are counted from
the start of the stream, so the result does not depend on the pieces it comes in, and what has been given out never has
to be scaled again.

Tensors: audio (channels, samples).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.audio import SAMPLE_RATE

CEILING = 0.98
BLOCK_SAMPLES = 128
ATTACK_BLOCKS = 4
RELEASE_DB_PER_SECOND = 24.0


class Limiter:
    """Takes audio piece by piece and returns it `ATTACK_BLOCKS` + 1 blocks (15 ms) later, at most `CEILING`."""

    def __init__(self) -> None:
        self._audio: Tensor | None = None  # (channels, samples): waiting, from a border between blocks on
        self._gain: float | None = None  # at that border, natural logarithm; None where the sound begins

    def push(self, audio: Tensor) -> Tensor:
        """Take the next samples and return those whose gain is settled, both (channels, samples >= 0)."""
        audio = audio if self._audio is None else torch.cat((self._audio, audio), dim=-1)
        num_blocks = max(0, audio.shape[-1] // BLOCK_SAMPLES - ATTACK_BLOCKS)
        return self._give_out(audio, num_blocks)

    def finish(self) -> Tensor:
        """End the stream: the remaining audio."""
        if self._audio is None or not self._audio.shape[-1]:
            return torch.zeros(2, 0) if self._audio is None else self._audio
        num_samples = self._audio.shape[-1]
        num_blocks = -(-num_samples // BLOCK_SAMPLES)
        padded = F.pad(self._audio, (0, (num_blocks + ATTACK_BLOCKS) * BLOCK_SAMPLES - num_samples))
        return self._give_out(padded, num_blocks)[:, :num_samples]

    def _give_out(self, audio: Tensor, num_blocks: int) -> Tensor:
        """Limit the first blocks of the audio, with ATTACK_BLOCKS more to look at, and keep the rest."""
        num_samples = num_blocks * BLOCK_SAMPLES
        self._audio = audio[:, num_samples:].clone()
        if not num_blocks:
            return audio[:, :0]
        seen = audio[:, : (num_blocks + ATTACK_BLOCKS) * BLOCK_SAMPLES]
        peaks = seen.abs().unflatten(-1, (-1, BLOCK_SAMPLES)).amax(dim=(0, 2)).double()  # (blocks,)
        needed = (CEILING / peaks.clamp(min=CEILING)).log()  # 0 where nothing is to be done
        gains = self._gains(needed.tolist(), num_blocks)
        if max(gains, key=abs) == 0:
            return audio[:, :num_samples]
        start = torch.tensor(gains, dtype=torch.float64).exp()
        share = torch.arange(BLOCK_SAMPLES, dtype=torch.float64) / BLOCK_SAMPLES
        gain = start[:-1, None] + share * start.diff()[:, None]  # (blocks, samples)
        return audio[:, :num_samples] * gain.flatten().to(audio)

    def _gains(self, needed: list[float], num_blocks: int) -> list[float]:
        """Logarithms of the gains at the borders of the first blocks, num_blocks + 1 of them."""
        rise = RELEASE_DB_PER_SECOND * math.log(10) / 20 * BLOCK_SAMPLES / SAMPLE_RATE
        gains = [_falling(needed) if self._gain is None else self._gain]
        for border in range(1, num_blocks + 1):
            gains.append(min(0.0, gains[-1] + rise, needed[border - 1], _falling(needed[border:])))
        self._gain = gains[-1]
        return gains

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next samples."""
        return {"audio": self._audio, "gain": self._gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._audio, self._gain = state["audio"], state["gain"]


def _falling(needed: list[float]) -> float:
    """What a border must have fallen to, to be as low as the next blocks need when they come."""
    return min(value * (1 - distance / ATTACK_BLOCKS) for distance, value in enumerate(needed[:ATTACK_BLOCKS]))


def limit(audio: Tensor) -> Tensor:
    """Limit a whole sound (channels, samples)."""
    limiter = Limiter()
    return torch.cat((limiter.push(audio), limiter.finish()), dim=-1)
