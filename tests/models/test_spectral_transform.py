"""Transforms as layers: scales, time and frequency in the right place, noise by position, chunks equal the whole."""

import math
import random

import pytest
import torch
from torch import Tensor, nn

from models.spectral_transform import (
    SHAPES_PER_BIN,
    Join,
    LogSpectrum,
    NoiseSynthesis,
    ShortLevels,
    concatenated,
    fixed_noise,
    summed,
)
from models.streaming import layer_stream

HOP, LENGTH = 32, 128
BINS = LENGTH // 2 + 1


def stream(layer: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    """What the streamed layer makes of `x` in random chunks, with its state handed on to a new stream at each."""
    rng, parts, position, state = random.Random(0), [], 0, None
    while position < x.shape[-1]:
        layers = layer_stream(layer)
        if state is not None:
            layers.load_state(state)
        size = rng.choice(sizes)
        parts.append(layers.push(x[..., position : position + size], last=False))
        position, state = position + size, layers.state()
    layers = layer_stream(layer)
    layers.load_state(state or layers.state())
    return torch.cat([*parts, layers.push(x[..., :0], last=True)], dim=-1)


def shapes(frames: int, level: float = 0.0, width: float = -50.0) -> Tensor:
    """Shapes of bins with one level, no coherent part, and one width."""
    values = torch.zeros(1, SHAPES_PER_BIN, BINS, frames)
    values[:, :2] = level
    values[:, -1] = width
    return values.flatten(1, 2)


@pytest.mark.parametrize("sizes", [[1], [7], [0, 1, 40, 300]], ids=str)
@pytest.mark.parametrize("layer", [LogSpectrum(LENGTH, HOP), ShortLevels(HOP, 4, 4)], ids=["spectrum", "short"])
def test_levels_of_chunks_equal_those_of_the_whole(layer: nn.Module, sizes: list[int]):
    audio = torch.randn(2, 2, HOP * 20)
    torch.testing.assert_close(stream(layer, audio, sizes), layer(audio), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [[1], [7], [0, 1, 2, 5]], ids=str)
@pytest.mark.parametrize("frames", [1, 2, 23])
def test_synthesis_of_chunks_equals_that_of_the_whole(frames: int, sizes: list[int]):
    layer = NoiseSynthesis(LENGTH, HOP).eval()
    x = torch.randn(2, SHAPES_PER_BIN * BINS, frames)
    whole = layer(x)
    assert whole.shape == (2, 2, frames * HOP)
    assert whole.std() > 0.1
    torch.testing.assert_close(stream(layer, x, sizes), whole, rtol=0, atol=1e-5)


def test_white_noise_has_level_three_in_every_bin_and_a_side_none_in_the_other_channel():
    torch.manual_seed(0)
    audio = torch.randn(1, 2, HOP * 2000)
    audio[:, 1] = 0
    left, right, mid, side = LogSpectrum(LENGTH, HOP)(audio).unflatten(1, (4, BINS))[0, :, :, 4:-4]
    inner = slice(2, -2)  # the first and the last bin are real
    euler = 0.5772  # the mean logarithm of an exponentially distributed power is minus this
    assert (left[inner].mean(dim=1) - (3 - euler / 4)).abs().max() < 0.06
    assert right.max() < -2
    for half in (mid, side):
        assert (half[inner].mean(dim=1) - (3 - (euler + math.log(2)) / 4)).abs().max() < 0.06


def test_short_levels_tell_when_in_a_hop_a_click_comes():
    steps = 4
    for step in range(steps):
        audio = torch.zeros(1, 2, HOP * 8)
        audio[..., HOP * 5 + HOP // steps * step + HOP // steps // 2] = 1
        levels = ShortLevels(HOP, steps, 4)(audio).unflatten(1, (2, steps, 4))[0, 0].mean(dim=1)  # (steps, frames)
        assert divmod(int(levels.T.flatten().argmax()), steps) == (5, step)


def test_unit_levels_give_back_the_noise_itself():
    frames = 50
    audio = NoiseSynthesis(LENGTH, HOP).eval()(shapes(frames))
    padding = (LENGTH - HOP) // 2
    noise = fixed_noise(0, frames + 3, HOP)[:, :, padding:]
    inner = slice(LENGTH, frames * HOP - LENGTH)
    gain = math.exp(3.7 - math.log1p(math.exp(3.7)))  # the soft bound of the level
    for channel in (0, 1):  # without width both have the first noise
        torch.testing.assert_close(audio[0, channel, inner], gain * noise[0, 0, inner], rtol=0, atol=1e-4)


def test_levels_are_bounded_and_a_width_makes_the_sides_independent():
    layer = NoiseSynthesis(LENGTH, HOP).eval()
    assert layer(shapes(50, level=100.0)).std() < 1.01 * math.exp(3.7)
    wide = layer(shapes(400, width=2 + 0.881))[0]  # sigmoid = 1 / sqrt(2)
    assert abs(torch.corrcoef(wide)[0, 1].item()) < 0.05


def test_in_training_the_noise_is_new():
    layer = NoiseSynthesis(LENGTH, HOP).train()
    first, second = layer(shapes(9)), layer(shapes(9))
    assert not torch.equal(first, second)
    assert abs(first.std().item() - 1) < 0.2


def test_any_stretch_of_the_noise_can_be_had_by_itself():
    whole = fixed_noise(0, 20, HOP)
    assert whole.shape == (1, 2, 20 * HOP)
    assert abs(whole.std().item() - 1) < 0.05
    torch.testing.assert_close(fixed_noise(7, 3, HOP), whole[..., 7 * HOP : 10 * HOP], rtol=0, atol=0)


def test_layers_that_lag_differently_are_joined_in_step():
    x = torch.randn(1, 2, 40)
    slow, fast = nn.Conv1d(2, 3, 9, padding=4), nn.Conv1d(2, 3, 1)
    for join, expected in (
        (concatenated, torch.cat((slow(x), fast(x)), dim=1)),
        (summed, slow(x) + fast(x)),
    ):
        layer = Join(slow, fast, join=join)
        with torch.no_grad():
            torch.testing.assert_close(stream(layer, x, [0, 1, 6]), expected, rtol=0, atol=1e-6)
        assert layer_stream(layer).input_span(10, 10) == (6, 14)
