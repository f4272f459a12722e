"""The learning rate, the average of weights and clipping against their definitions; steps that are left out."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import UserError
from train.muon import Muon
from train.optimisation import (
    MAX_BAD_STEPS,
    BadSteps,
    OptimiserConfig,
    clip_or_drop,
    ema_of,
    finite_or_nan,
    learning_rate,
    make_optimiser,
)


def test_learning_rate_rises_then_falls_to_its_share():
    config = OptimiserConfig(learning_rate=2.0, warmup_steps=10, final_share=0.1)
    rates = [learning_rate(config, step, 100) / 2 for step in (0, 4, 9, 50, 100, 200)]
    assert rates[:2] == pytest.approx([0.1, 0.5], abs=0.005)
    assert rates[2] == pytest.approx(1, abs=0.02)
    assert rates[3:] == pytest.approx([0.55, 0.1, 0.1])


def test_learning_rate_is_constant_or_decays_by_a_factor():
    constant = OptimiserConfig(learning_rate=0.5, warmup_steps=0)
    assert {learning_rate(constant, step, 10) for step in range(20)} == {0.5}
    falling = OptimiserConfig(learning_rate=0.5, warmup_steps=0, decay_per_step=0.9)
    assert learning_rate(falling, 7, 10) == pytest.approx(0.5 * 0.9**7)


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


def test_an_average_without_memory_is_the_weights():
    network = nn.Linear(3, 3)
    averaged = ema_of(network, decay=0)
    for _ in range(3):
        nn.init.normal_(network.weight)
        averaged.update_parameters(network)
        assert torch.equal(averaged.module.weight, network.weight)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1e-4),
        ("learning_rate", math.nan),
        ("betas", (0.9, 1.0)),
        ("weight_decay", math.inf),
        ("warmup_steps", -5),
        ("decay_per_step", 1.1),
        ("final_share", 1.5),
        ("gradient_clip", -1.0),
        ("gradient_clip", 0.0),
        ("ema_decay", 1.0),
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_its_option(name: str, value: Any):
    with pytest.raises(UserError, match=rf"^optimiser\.{name} must be in \[.*\], got "):
        OptimiserConfig(**{name: value})


def test_weight_decay_acts_where_it_is_meant_to():
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    config = OptimiserConfig(learning_rate=0.1, weight_decay=0.5)
    optimiser = make_optimiser(config, network, decays=lambda name: "bias" not in name)
    network(torch.zeros(1, 2)).sum().mul(0).backward()
    optimiser.step()
    torch.testing.assert_close(network.weight.data, torch.full((2, 2), 0.95))
    torch.testing.assert_close(network.bias.data, torch.ones(2))


def test_muon_needs_matrices():
    config = OptimiserConfig(name="muon")
    assert isinstance(make_optimiser(config, nn.Linear(2, 2)), Muon)
    with pytest.raises(UserError, match=r"optimiser\.name muon"):
        make_optimiser(config, torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_dropped_gradients_leave_weights_and_optimiser_as_they_are(name: Any):
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimiser = make_optimiser(OptimiserConfig(name=name, weight_decay=0.1, learning_rate=0.1), network)
    network(torch.randn(4, 3)).square().sum().backward()
    assert clip_or_drop(network.parameters(), 1.0).isfinite()
    assert sum(p.grad.square().sum() for p in network.parameters() if p.grad is not None) == pytest.approx(1, abs=1e-4)
    optimiser.step()
    optimiser.zero_grad()
    before = [p.clone() for p in network.parameters()]
    state = [{k: v.clone() for k, v in optimiser.state[p].items()} for p in network.parameters()]
    loss = network(torch.randn(4, 3)).square().sum() + torch.tensor(math.inf)  # whose gradients are finite
    finite_or_nan(loss).backward()
    assert not clip_or_drop(network.parameters(), 1.0).isfinite()
    optimiser.step()
    for parameter, weight, kept in zip(network.parameters(), before, state, strict=True):
        assert torch.equal(parameter, weight)
        assert all(torch.equal(optimiser.state[parameter][key], value) for key, value in kept.items())


def test_a_run_of_bad_steps_ends_the_training(caplog: pytest.LogCaptureFixture):
    steps = BadSteps()
    with caplog.at_level(logging.WARNING):
        for step in range(MAX_BAD_STEPS - 1):
            steps.count(step, ["loss nan"])
    assert "step 3 skipped, loss or gradient not finite: loss nan (4 so far)" in caplog.text
    steps.count(MAX_BAD_STEPS - 1, [])
    for step in range(MAX_BAD_STEPS - 1):
        steps.count(step, ["loss nan"])
    again = BadSteps()
    again.load_state_dict(steps.state_dict())
    with pytest.raises(UserError, match=r"20 steps in a row .* at step 99 \(loss nan\).*optimiser.learning_rate"):
        again.count(99, ["loss nan"])
