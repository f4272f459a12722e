"""The limiter: what is quiet passes untouched, what is loud never passes the ceiling, whatever the pieces."""

import math

import pytest
import torch
from torch import Tensor

from infer.limiter import ATTACK_BLOCKS, BLOCK_SAMPLES, CEILING, RELEASE_DB_PER_SECOND, Limiter, limit


def music(seconds: float = 1.0, level: float = 3.0) -> Tensor:
    """Noise with bursts far above full scale, some at the very start and end, (2, samples)."""
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(2, round(seconds * 44_100), generator=generator)
    for start in (0, 10_000, 10_200, 30_000, 44_000):
        audio[start % 2, start : start + 100] *= 10 * level
    return audio


def in_pieces(audio: Tensor, sizes: list[int]) -> Tensor:
    limiter, pieces, start = Limiter(), [], 0
    while start < audio.shape[1]:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(limiter.push(audio[:, start : start + size]))
        start += size
    return torch.cat((*pieces, limiter.finish()), dim=-1)


def test_quiet_sound_is_untouched():
    audio = music().clamp(-CEILING, CEILING)
    assert torch.equal(limit(audio), audio)


@pytest.mark.parametrize("level", [0.5, 3.0, 1000.0])
def test_loud_sound_stays_below_the_ceiling_and_keeps_its_shape(level: float):
    audio = music(level=level)
    limited = limit(audio)
    assert limited.shape == audio.shape
    assert limited.abs().max() <= CEILING * (1 + 1e-6)
    gain = (limited / audio).nan_to_num(1.0)
    assert gain.min() > 0
    assert gain.max() <= 1 + 1e-6
    assert torch.allclose(gain[0], gain[1], atol=1e-5)  # the sides keep their balance


def test_the_gain_falls_in_time_and_rises_slowly():
    audio = torch.full((2, 44_100), 0.5)
    audio[:, 20_000:20_100] = 5.0
    gain = limit(audio)[0] / audio[0]
    assert torch.equal(gain[: 20_000 - (ATTACK_BLOCKS + 1) * BLOCK_SAMPLES], torch.ones(19_360))
    assert gain[19_900] < 0.5
    level_db = 20 * gain.log10()
    assert level_db.diff().max() <= RELEASE_DB_PER_SECOND / 44_100 * 1.1
    assert level_db.diff().min() > -20 / BLOCK_SAMPLES  # no click either on the way down
    assert level_db[20_300] == pytest.approx(20 * math.log10(CEILING / 5), abs=0.2)


@pytest.mark.parametrize("sizes", [[1], [127, 1], [5000], [1024, 0, 333], [100_000]])
def test_pieces_do_not_matter(sizes: list[int]):
    audio = music(0.1 if sizes == [1] else 1.0)
    assert torch.equal(in_pieces(audio, sizes), limit(audio))


def test_delay_is_bounded():
    limiter = Limiter()
    given = limiter.push(music()[:, :20_000])
    assert 20_000 - given.shape[1] < (ATTACK_BLOCKS + 1) * BLOCK_SAMPLES


def test_resumed_equals_uninterrupted():
    audio = music()
    first = Limiter()
    start = first.push(audio[:, :10_150])
    second = Limiter()
    second.load_state_dict(first.state_dict())
    rest = torch.cat((second.push(audio[:, 10_150:]), second.finish()), dim=-1)
    assert torch.equal(torch.cat((start, rest), dim=-1), limit(audio))


def test_nothing_in_nothing_out():
    assert limit(torch.zeros(2, 0)).shape == (2, 0)
    assert Limiter().finish().shape == (2, 0)
    assert torch.equal(limit(torch.ones(2, 3)), torch.full((2, 3), CEILING))
