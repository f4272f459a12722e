"""The shape of the endless queue: what a network is trained for, and what it is played with.

    K context frames | N chunks of c frames, each noisier than the one before          window K + N c

Every s network calls the queue shifts: its first chunk, now clean, leaves and becomes context, and a chunk of pure
noise enters. A chunk takes S = s N steps from noise to sound, and N c frames of lead time.

Sources: Kim et al. 2024 (FIFO-Diffusion), algorithm 1; InfiniteAudio 2025 (2506.03020), section 3.
"""

from dataclasses import dataclass

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
