"""The published ways to play a queue: what they are, latent partitioning and lookahead."""

from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.fifo import Fifo
from infer.fifo.methods import PartitionedNetwork, fifo_diffusion, plan_of
from infer.samplers import SamplingConfig, make_generators
from models.queue import QueueConfig
from models.schedule import time_grid

CHANNELS = 3
QUEUE = QueueConfig(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1)


def test_what_the_methods_are():
    own = plan_of("fifo", QUEUE, SamplingConfig(focus="last"))
    assert own.queue == QUEUE
    assert own.is_guarded
    assert torch.equal(own.grid, time_grid(4, "last", 3.0))
    paper = plan_of("infinite-audio", QUEUE, SamplingConfig(focus="last"))
    assert paper.queue == QueueConfig(context_frames=8, chunk_frames=1, num_chunks=16, steps_per_shift=1)
    assert paper.sampler == "ddim"
    assert not paper.is_guarded
    assert (paper.grid.diff()[:3] < 0.06).all()  # all steps of the last third, every third of the others
    assert (paper.grid.diff()[-3:] > 0.09).all()
    plain = fifo_diffusion(QUEUE)
    assert plain.queue == QueueConfig(context_frames=2, chunk_frames=1, num_chunks=16, steps_per_shift=1)
    partitioned = plain.wrap(gathered)
    assert isinstance(partitioned, PartitionedNetwork)
    assert (partitioned.frames, partitioned.hop) == (4, 2)


def gathered(x: Tensor, t: Tensor, conditioning: Any) -> Tensor:
    """A network that says how many frames it was shown, and where each stands."""
    del t, conditioning
    return torch.arange(x.shape[-1]).expand_as(x) + 1000 * x.shape[-1]


@pytest.mark.parametrize(("lookahead", "expected"), [(False, [0, 1, 2, 3] * 4), (True, [0, 1] + [2, 3] * 7)])
def test_partitions_cover_the_queue_once(lookahead: bool, expected: list[int]):
    calls = []

    def network(*arguments) -> Tensor:
        calls.append(arguments[1][0].tolist())
        return gathered(*arguments)

    x = torch.zeros(1, CHANNELS, 16)
    t = torch.arange(16.0)[None]
    v = PartitionedNetwork(network, 4, lookahead=lookahead)(x, t, None)
    assert (v[0, 0] % 1000).tolist() == expected
    assert len(calls) == (7 if lookahead else 4)  # 2 n - 1, and one more with the f/2 frames of context
    assert calls[1] == ([2, 3, 4, 5] if lookahead else [4, 5, 6, 7])


def test_lookahead_predicts_every_queued_frame_behind_cleaner_ones():
    """With f/2 finished frames in front, 2 n windows, of each the noisier half: the paper's algorithm 3."""
    windows = []

    def network(x: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        windows.append(t[0])
        return gathered(x, t, conditioning)

    plan = fifo_diffusion(QueueConfig(context_frames=0, chunk_frames=4, num_chunks=2, steps_per_shift=4), 2)
    partitioned = plan.wrap(network)
    generators = make_generators(0, 1)
    stream = Fifo(
        lambda x, t: 0 * partitioned(x, t, None),
        plan.queue,
        plan.grid,
        sampler=plan.sampler,
        channels=CHANNELS,
        generators=generators,
    )
    list(islice(stream, 4))
    last = windows[-4:]
    assert [len(t) for t in last] == [4] * 4
    assert last[0].tolist()[:2] == [0, 0]
    for t, following in pairwise(last):
        assert torch.equal(t[2:], following[:2])
        assert t.max() - t.min() <= 4 / 8


def test_partition_errors():
    for frames, lookahead in ((0, False), (5, True)):
        with pytest.raises(ValueError, match=f"got {frames}"):
            PartitionedNetwork(gathered, frames, lookahead=lookahead)
