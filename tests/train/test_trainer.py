"""What every training shares: noise per step, refusals, checkpoints."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import train
from train.trainer import TrainerConfig, seed_run, step_generator, step_generators
from train.vae_training import VAETraining


def test_noise_is_the_same_for_the_same_step_and_differs_between_steps_samples_and_seeds():
    def draw(seed: int, step: int, number: int) -> torch.Tensor:
        return torch.rand(4, generator=step_generator(seed, step, number))

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 0, 2)]
    draws = {tuple(draw(*key).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_noise_does_not_depend_on_the_number_of_processes():
    def draw(batch: int, rank: int) -> list[float]:
        return [float(torch.rand((), generator=g)) for g in step_generators(5, 7, batch, rank)]

    assert draw(8, 0) == draw(4, 0) + draw(4, 1) == draw(2, 0) + draw(2, 1) + draw(2, 2) + draw(2, 3)
    assert len(set(draw(8, 0))) == 8


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match=r"trainer.max_steps must be in \[1, 1e\+10\], got 0"):
        TrainerConfig(max_steps=0)


def test_a_training_counts_denormal_numbers_as_zero():
    torch.set_flush_denormal(False)
    tiny = torch.full((1,), 1e-30)
    assert (tiny * 1e-10).item() > 0
    seed_run(0)
    assert (tiny * 1e-10).item() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_told_to_stop_keeps_its_state(
    tmp_path: Path, tiny_vae: Path, assert_same_weights: Any, monkeypatch: pytest.MonkeyPatch, number: int
):
    training_step = VAETraining.training_step

    def interrupted(module: VAETraining, batch: Any, batch_idx: int) -> None:
        training_step(module, batch, batch_idx)
        if module.completed_steps == 3:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(VAETraining, "training_step", interrupted)
        before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        try:
            with pytest.raises(SystemExit) as stop:
                train("vae", tmp_path / "run")
        finally:
            signal.signal(number, before)
        assert stop.value.code != 0
    train("vae", tmp_path / "run", "--resume", "last")
    assert_same_weights(tmp_path / "run", tiny_vae)
