"""The shape of the endless queue: what a network is trained for, and what it is played with.

    K context frames | N chunks of c frames, each noisier than the one before          window K + N c

Every s network calls the queue shifts: its first chunk, now clean, leaves and becomes context, and a chunk of pure
noise enters. A chunk takes S = s N steps from noise to sound, and N c frames of lead time.

Sources: Kim et al. 2024 (FIFO-Diffusion), algorithm 1; InfiniteAudio 2025 (2506.03020), section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """Shape of a queue. A checkpoint stores those that its network was trained for, and the first is the default."""

    context_frames: int = 32
    """Finished frames kept in front of the queue (K)."""
    chunk_frames: int = 16
    """Frames that share a noise level and leave together (c); best a multiple of the U-Net's time stride."""
    num_chunks: int = 10
    """Chunks in the queue (N)."""
    steps_per_shift: int = 3
    """Network calls per shift (s)."""

    def __post_init__(self) -> None:
        for name, least in (("context_frames", 0), ("chunk_frames", 1), ("num_chunks", 1), ("steps_per_shift", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"queue.{name} must be a whole number of at least {least}, got {value!r}")

    @property
    def num_steps(self) -> int:
        """Steps S = s N that a chunk takes from noise to clean."""
        return self.steps_per_shift * self.num_chunks

    @property
    def queue_frames(self) -> int:
        """Frames N c of a full queue, which is also its lead time."""
        return self.num_chunks * self.chunk_frames

    @property
    def window_frames(self) -> int:
        """Frames K + N c that a network call sees once the queue is full."""
        return self.context_frames + self.queue_frames


def queue_times(
    grid: Tensor, config: QueueConfig, call: int = 0, lag: int = 0, num_chunks: int | None = None
) -> Tensor:
    """Return the noise time of every frame of a queue before a network call of a shift.

    Chunk j of a full queue stands at grid[s (j + 1) - m] before call m = 0, ..., s - 1, and at m = s, after the last
    one, where chunk j - 1 stood. A queue that is filling is some shifts behind: its chunk j stands where chunk
    j + lag of a full one does, and one that is not under way yet at grid[S]. A queue that drains has fewer chunks.

    Args:
        grid: (S + 1,) ascending noise times, S = s N.
        call: m.
        lag: chunks that are missing in front of a filling queue, at most N - 1; 0: the queue is full, or drains.
        num_chunks: chunks in view; None: those under way, N - lag.

    Returns:
        (num_chunks * c,).
    """
    if len(grid) != config.num_steps + 1:
        raise ValueError(f"a grid of {config.num_steps} steps has {config.num_steps + 1} times, got {len(grid)}")
    chunk = torch.arange(config.num_chunks - lag if num_chunks is None else num_chunks)
    index = config.steps_per_shift * (chunk + lag + 1) - call
    return grid[index.clamp(max=config.num_steps)].repeat_interleave(config.chunk_frames)
