"""The average of weights against its closed form."""

import pytest
import torch
from torch import nn

from train.ema import ema_of


def test_average_follows_the_warmed_up_recursion():
    network = nn.Linear(1, 1)
    averaged = ema_of(network, decay=0.5)
    values, expected = [3.0, -1.0, 4.0, 1.0, -5.0], None
    for n, value in enumerate(values):
        nn.init.constant_(network.weight, value)
        averaged.update_parameters(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    weight = averaged.module.weight
    assert isinstance(weight, torch.Tensor)
    assert weight.item() == pytest.approx(expected, rel=1e-5)


def test_average_is_frozen_and_apart():
    network = nn.Linear(2, 2)
    averaged = ema_of(network, decay=0.9)
    averaged.update_parameters(network)
    assert not any(p.requires_grad for p in averaged.parameters())
    assert network.weight.requires_grad
    before = averaged.module.weight.clone()  # pyright: ignore[reportCallIssue]
    nn.init.zeros_(network.weight)
    assert torch.equal(averaged.module.weight, before)  # pyright: ignore[reportArgumentType]


def test_a_decay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1.0"):
        ema_of(nn.Linear(1, 1), decay=1.0)
