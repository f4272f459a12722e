"""Ways to play a model's queue: as it was trained for, as InfiniteAudio does, as FIFO-Diffusion does.

    fifo            chunks, second order, behind a context
    infinite-audio  c = 1, s = 1, first order, behind the same context, steps skipped outside of the focus
    fifo-diffusion  c = 1, s = 1, first order, the window shown to the network in pieces (latent partitioning) that
                    overlap by half, of which only the noisier half is taken (lookahead)
    partitioned     chunks, as fifo, but the window shown in pieces as fifo-diffusion does: for networks that were
                    trained on one noise level a clip, at twice the cost

All have the same number of steps and the same lead time. What exists only to be compared with these stands in
`infer.evaluate.methods`, as plans of the same kind.

Sources: InfiniteAudio 2025 (2506.03020); Kim et al. 2024 (FIFO-Diffusion), sections 4.2 and 4.3, algorithms 2 and 3.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from infer.decoding import AudioDecoding, Decoding
from infer.guidance import Network
from infer.hosts.host import Host
from infer.samplers import Sampler, SamplingConfig
from models.errors import UserError
from models.queue import QueueConfig
from models.schedule import skip_grid_of
from models.timing import Position

Method = Literal["fifo", "infinite-audio", "fifo-diffusion", "partitioned"]

NUM_PARTITIONS = 4
"""Pieces of a queue that together hold each frame once, as in the paper's best setting."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stream does, as numbers and functions."""

    queue: QueueConfig
    grid: Tensor
    """(num_steps + 1,) positions of the steps in the model's noise schedule, rising from 0 (clean) to 1 (noise)."""
    sampler: Sampler
    eta: float = 0.0
    is_guarded: bool = False
    """Whether the drift guard may act."""
    wrap: Callable[[Network], Network] = lambda network: network
    """What stands between the denoiser and the network."""
    decoding: Callable[[Host, int], AudioDecoding] = Decoding
    """Makes the decoding of a batch."""
    position: Position | None = None
    """What the model is told of every window, in place of the stream's timing."""
    overlap_samples: int = 0
    """Samples by which the audio of two chunks overlaps."""


def plan_of(method: Method, queue: QueueConfig, sampling: SamplingConfig) -> Plan:
    """Return the plan of a method for the queue that is asked for."""
    if method == "infinite-audio":
        return infinite_audio(queue, sampling)
    if method == "fifo-diffusion":
        return fifo_diffusion(queue)
    plan = Plan(
        queue=queue,
        grid=sampling.grid(queue.num_steps),
        sampler=sampling.sampler,
        eta=sampling.eta,
        is_guarded=True,
    )
    return partitioned(plan) if method == "partitioned" else plan


def partitioned(plan: Plan) -> Plan:
    """Show the window in pieces of twice the context, half apart, of which the noisier half is taken.

    Raises:
        UserError: the queue has no context.
    """
    frames = 2 * plan.queue.context_frames
    if not frames:
        raise UserError("the method partitioned needs a context, got queue.context_frames 0")
    return dataclasses.replace(plan, wrap=lambda network: PartitionedNetwork(network, frames, lookahead=True))


def infinite_audio(queue: QueueConfig, sampling: SamplingConfig) -> Plan:
    """Return InfiniteAudio's way: a frame a step, and a curve by skipped steps."""
    single = _frame_by_frame(queue, queue.context_frames)
    grid = skip_grid_of(single.num_steps, sampling.known_focus, sampling.factor)
    return Plan(queue=single, grid=grid, sampler="ddim")


def fifo_diffusion(queue: QueueConfig, num_partitions: int = NUM_PARTITIONS) -> Plan:
    """Return FIFO-Diffusion's way: latent partitioning with lookahead, f/2 finished frames in front."""
    frames = max(2, queue.queue_frames // num_partitions // 2 * 2)
    single = _frame_by_frame(queue, frames // 2)
    return Plan(
        queue=single,
        grid=SamplingConfig().grid(single.num_steps),
        sampler="ddim",
        wrap=lambda network: PartitionedNetwork(network, frames, lookahead=True),
    )


def _frame_by_frame(queue: QueueConfig, context_frames: int) -> QueueConfig:
    return QueueConfig(context_frames=context_frames, chunk_frames=1, num_chunks=queue.queue_frames, steps_per_shift=1)


class PartitionedNetwork:
    """A network that is shown a long window in pieces.

        queue of n windows of f frames        [ w0 | w1 | ... ]        each window spans 1/n of the noise times
        lookahead, 2 n windows, half apart    [ . w0 ][ . w1 ] ...     only the second, noisier half of each is taken

    A window sees the smaller range of levels the more of them there are, and with lookahead every frame but the first
    ones is predicted behind f/2 cleaner ones. It costs twice the network's work, as many calls as windows, no memory.

    Args:
        network: what runs on the pieces.
        frames: length f of a piece.
        lookahead: whether pieces overlap by half, the cleaner half being only looked at. The context in front of the
            queue should then be f/2 frames long.

    Raises:
        UserError: f is no length, or odd with lookahead.
    """

    def __init__(self, network: Network, frames: int, *, lookahead: bool = False):
        if frames < 1 or (lookahead and frames % 2):
            raise UserError(f"a partition must have at least 1 frame, and an even number with lookahead, got {frames}")
        self.network = network
        self.frames = frames
        self.hop = frames // 2 if lookahead else frames

    def __call__(self, latents: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        total, overlap = latents.shape[-1], self.frames - self.hop
        pieces: list[Tensor] = []
        for start in range(0, max(total - overlap, 1), self.hop):
            window = slice(start, start + self.frames)
            v = self.network(latents[..., window], t[..., window], conditioning)
            pieces.append(v[..., overlap:] if start else v)
        return torch.cat(pieces, dim=-1)
