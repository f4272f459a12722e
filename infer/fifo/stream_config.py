"""Everything about a stream of sound in one configuration, with the values that a state file keeps."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infer.fifo.baselines import StreamMethod
from infer.fifo.config import FifoConfig
from infer.fifo.guards import GuardConfig
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig

StartMode = Literal["noise", "clip"]


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Everything about a stream but its model, its prompts and the sound it continues."""

    method: StreamMethod = "fifo"
    """fifo, or what it is compared with."""
    fifo: FifoConfig = field(default_factory=FifoConfig)
    """The queue; the other methods take their number of steps and their sampler from it."""
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(scale=4.0, rescale=0.5))
    """Classifier-free guidance."""
    clean_scale: float | None = None
    """Guidance scale of the cleanest slot, from which it goes to the guidance's at the noisiest; None: the same."""
    negative_prompt: str | None = None
    """What the sound should not be."""
    timing: StreamTiming = field(default_factory=StreamTiming)
    """What the model is told about the place in the piece."""
    guards: GuardConfig = field(default_factory=GuardConfig)
    """What holds drift back."""
    start: StartMode = "noise"
    """The queue grows in from noise, or starts full of a generated clip that is noised again (clip)."""
    partition_frames: int = 0
    """Length (frames) of the pieces the network sees the window in; 0: the whole window at once."""
    lookahead: bool = False
    """Whether the pieces overlap by half, of which only the noisier is taken; the context is then half a piece."""
    crossfade_seconds: float = 1.0
    """Overlap (s) of two clips with the method crossfade."""
    seconds: float | None = None
    """Length of the sound (s), what it continues included; None: no end."""
    seed: int = 0
    """Same seed and device, same sound."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StreamConfig":
        """Build from `dataclasses.asdict` of one."""
        parts = {"fifo": FifoConfig, "guidance": GuidanceConfig, "timing": StreamTiming, "guards": GuardConfig}
        return cls(**values | {name: part(**values[name]) for name, part in parts.items()})
