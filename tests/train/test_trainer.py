"""What every training shares: noise per step, refusals, checkpoints."""

import pytest
import torch

from train.trainer import TrainerConfig, step_generator


def test_noise_is_the_same_for_the_same_step_and_differs_between_steps_ranks_and_seeds():
    def draw(seed: int, rank: int, step: int) -> torch.Tensor:
        return torch.rand(4, generator=step_generator(seed, rank, step))

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 0, 2)]
    draws = {tuple(draw(*key).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match=r"trainer.max_steps must be at least 1, got 0"):
        TrainerConfig(max_steps=0)
