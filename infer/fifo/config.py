"""Everything about a stream but its model, its prompts, its seeds and the sound it continues."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infer.fifo.guard import GuardConfig
from infer.fifo.methods import Method
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from infer.hosts.host import Host
from infer.outputs import check_seconds
from infer.samplers import MAX_STEPS, SamplingConfig
from models.checkpoint import has_part, load_config
from models.errors import UserError
from models.queue import QueueConfig
from models.schedule import Focus

IMPORTANCE = "importance"
"""Entry of a model's folder with the focus recommended for it."""
STREAM_GUIDANCE = GuidanceConfig(scale=4.0)
"""What an endless stream is played with: guidance accumulates through the context, so it is weaker than a clip's."""
LARGEST_WINDOW = 16
"""A queue's window may be so many times the clip that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """The queue to play; what is left out is as in the queue that the model was trained for."""

    context_frames: int | None = None
    """Finished frames that the network sees in front of the queue (K)."""
    chunk_frames: int | None = None
    """Frames that share a noise level and leave together (c); best a multiple of the U-Net's time stride."""
    num_chunks: int | None = None
    """Chunks in the queue (N)."""
    steps_per_shift: int | None = None
    """Network calls per shift (s); a chunk takes s * N steps from noise to sound."""

    def __post_init__(self):
        self.of(QueueConfig())  # checks the values that are given

    def of(self, queue: QueueConfig) -> QueueConfig:
        """Return `queue` with what was asked for."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(queue, **given)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a stream is made."""

    method: Method = "fifo"
    """The queue that the model was trained for (fifo), or InfiniteAudio's or FIFO-Diffusion's way (`methods`)."""
    queue: QueueOptions = field(default_factory=QueueOptions)
    """The queue, where it is not the model's own."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampler and time grid."""
    guidance: GuidanceConfig = STREAM_GUIDANCE
    """Classifier-free guidance."""
    timing: StreamTiming = field(default_factory=StreamTiming)
    """What the model is told about the place in the piece."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What holds drift back."""
    seconds: float | None = None
    """Length of the sound (s), what it continues included; None: no end."""

    def __post_init__(self):
        if self.seconds is not None:
            check_seconds(self.seconds)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StreamConfig":
        """Build from `dataclasses.asdict` of one."""
        parts = {
            "queue": QueueOptions,
            "sampling": SamplingConfig,
            "guidance": GuidanceConfig,
            "timing": StreamTiming,
            "guard": GuardConfig,
        }
        return cls(**values | {name: part(**values[name]) for name, part in parts.items()})


def check_queue(queue: QueueConfig, host: Host) -> None:
    """Refuse a queue that would take memory or time without end.

    Raises:
        UserError: the window is far longer than any that the model was trained on, or the steps are too many.
    """
    seconds_per_frame = host.hop_length / host.sample_rate
    if queue.window_frames > LARGEST_WINDOW * host.window_frames:
        raise UserError(
            f"the queue's window of {queue.window_frames} frames ({queue.window_frames * seconds_per_frame:.0f} s) is "
            f"more than {LARGEST_WINDOW} times the {host.window_frames} frames that the model was trained on: "
            "take fewer or smaller chunks"
        )
    if queue.num_steps > MAX_STEPS:
        raise UserError(
            f"a chunk would take {queue.num_steps} steps from noise to sound, more than {MAX_STEPS}: take fewer "
            "chunks, or fewer steps per shift"
        )


def trained_queue_notice(config: StreamConfig, host: Host) -> str | None:
    """Say in one line that the model was not trained for what is played; None where it was."""
    if config.method != "fifo":
        return f"the method {config.method} plays the model with noise levels that it may not have been trained for"
    queue = config.queue.of(host.queues[0])
    shapes = [dataclasses.replace(trained, steps_per_shift=queue.steps_per_shift) for trained in host.queues]
    if queue in shapes:
        return None
    return f"the model was not trained for {_describe(queue)}, but for {' and '.join(map(_describe, host.queues))}"


def _describe(queue: QueueConfig) -> str:
    return f"{queue.context_frames} + {queue.num_chunks} x {queue.chunk_frames} frames"


def with_known_focus(sampling: SamplingConfig, model: Path) -> SamplingConfig:
    """Put the focus that `infer.importance` recommended for a model in place of auto."""
    return dataclasses.replace(sampling, focus=recommended_focus(model)) if sampling.focus == "auto" else sampling


def recommended_focus(model: Path) -> Focus:
    """Return the focus that `infer.importance` wrote into a model's folder.

    Raises:
        UserError: it has not been run on this model.
    """
    if not has_part(model, IMPORTANCE):
        raise UserError(f"{model} has no recommended focus, run: python -m infer.importance --model {model}")
    return load_config(model, IMPORTANCE)["focus"]
