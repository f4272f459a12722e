import pytest
import torch

from models.errors import UserError
from models.queue import QueueConfig, queue_times
from models.schedule import time_grid


def test_sizes_follow_from_the_four_numbers():
    queue = QueueConfig(context_frames=8, chunk_frames=4, num_chunks=6, steps_per_shift=2)
    assert (queue.num_steps, queue.queue_frames, queue.window_frames) == (12, 24, 32)


@pytest.mark.parametrize(
    ("name", "value"), [("context_frames", -1), ("chunk_frames", 0), ("num_chunks", 0), ("steps_per_shift", 1.5)]
)
def test_a_number_that_makes_no_queue_is_refused_by_its_name(name, value):
    with pytest.raises(UserError, match=f"queue.{name} .*got {value}"):
        QueueConfig(**{name: value})


QUEUE = QueueConfig(context_frames=3, chunk_frames=2, num_chunks=4, steps_per_shift=3)


def test_times_move_one_slot_in_a_shift():
    grid = time_grid(12, "last", 3)
    calls = [queue_times(grid, QUEUE, call) for call in range(4)]
    assert torch.equal(calls[0], grid[[3, 3, 6, 6, 9, 9, 12, 12]])
    assert torch.equal(calls[1], grid[[2, 2, 5, 5, 8, 8, 11, 11]])
    assert (calls[3][:2] == 0).all()
    assert torch.equal(calls[3][2:], calls[0][:-2])


def test_a_filling_queue_is_behind_and_what_waits_is_noise():
    grid = time_grid(12)
    full = queue_times(grid, QUEUE, call=1)
    for lag in range(4):
        assert torch.equal(queue_times(grid, QUEUE, call=1, lag=lag), full[2 * lag :])
        waiting = queue_times(grid, QUEUE, call=1, lag=lag, num_chunks=4)
        assert torch.equal(waiting[: 8 - 2 * lag], full[2 * lag :])
        assert (waiting[8 - 2 * lag :] == 1).all()


def test_a_draining_queue_has_the_first_chunks():
    grid = time_grid(12)
    assert torch.equal(queue_times(grid, QUEUE, call=2, num_chunks=2), queue_times(grid, QUEUE, call=2)[:4])


def test_one_chunk_is_the_ordinary_sampler():
    grid, clip = time_grid(5), QueueConfig(context_frames=0, chunk_frames=3, num_chunks=1, steps_per_shift=5)
    times = torch.stack([queue_times(grid, clip, call) for call in range(6)])
    assert torch.equal(times, grid.flip(0)[:, None].expand(6, 3))


def test_a_grid_of_another_queue_is_refused():
    with pytest.raises(ValueError, match="a grid of 12 steps has 13 times, got 11"):
        queue_times(time_grid(10), QUEUE)
