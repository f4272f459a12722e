"""The noise times that training draws are those that the player shows."""

import torch
from torch import Tensor

from infer.fifo.queue import Fifo
from models.queue import QueueConfig, queue_times
from models.schedule import time_grid

QUEUE = QueueConfig(context_frames=4, chunk_frames=2, num_chunks=3, steps_per_shift=2)


def test_a_stream_shows_the_times_of_filling_full_and_draining_queues():
    shown: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        shown.append(t[0].clone())
        return torch.zeros_like(x)

    grid = time_grid(6, "last", 2.0)
    fifo = Fifo(denoise, QUEUE, grid, channels=1, generators=[torch.Generator()])
    fifo.end_after(6)
    assert len(list(fifo)) == 6
    rounds = [(2, None, 0), (1, None, 0)]  # filling: lag, chunks, context frames
    rounds += [(0, 3, 0), (0, 3, 2), (0, 3, 4), (0, 3, 4)]  # full
    rounds += [(0, 2, 4), (0, 1, 4)]  # draining
    expected = [
        torch.cat((torch.zeros(context), queue_times(grid, QUEUE, call, lag, num_chunks)))
        for lag, num_chunks, context in rounds
        for call in range(2)
    ]
    assert [len(t) for t in shown] == [len(t) for t in expected]
    for times, wanted in zip(shown, expected, strict=True):
        torch.testing.assert_close(times, wanted)
