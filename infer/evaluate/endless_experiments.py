"""Which streams the experiments on endless sound compare.

    focus     clips end to end, and equal, initial, middle, last focus in InfiniteAudio's way, beside the queue
    steps     200 and 250 equal steps, curved under 150, second order under 50
    length    lengths up to the asked one                   cost   the same, for memory and time alone
    methods   the queue beside concatenation, crossfade, sliding window, plain FIFO and FIFO-Diffusion
    parts     context, chunk, steps, noise, focus and sampler, one changed at a time
    guard     the guard against drift in several strengths, and timing

Source: Kong et al. 2025, InfiniteAudio (2506.03020), tables 1 to 3 and figure 3.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from infer.evaluate.methods import ComparedMethod
from infer.fifo.config import QueueOptions, StreamConfig
from infer.fifo.guard import GuardConfig
from models.errors import UserError
from models.queue import QueueConfig
from models.schedule import Focus

Experiment = Literal["focus", "steps", "length", "cost", "methods", "parts", "guard"]

LENGTHS_SECONDS = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make a stream."""

    label: str
    config: StreamConfig
    seconds: float
    method: ComparedMethod = "fifo"


def variants(
    experiment: Experiment,
    base: StreamConfig,
    queue: QueueConfig,
    seconds: float,
    method: ComparedMethod = "fifo",
) -> list[Variant]:
    """List what an experiment compares.

    Args:
        base: what is not under test.
        queue: the one that the model was trained for.
        seconds: length of a stream; of the longest one in length and cost.
        method: of the variants whose method is not under test.
    """
    if experiment not in get_args(Experiment):
        raise UserError(f"no experiment {experiment!r}, expected one of {', '.join(get_args(Experiment))}")
    if experiment in ("length", "cost"):
        lengths = [*(length for length in LENGTHS_SECONDS if length < seconds), seconds]
        return [Variant(label=f"{length:g} s", config=base, seconds=length, method=method) for length in lengths]
    asked = base.queue.of(queue)
    base = replace(base, queue=QueueOptions(**asdict(asked)))
    compared = _COMPARED[experiment](base, asked)
    return [
        Variant(label=label, config=config, seconds=seconds, method=own or method)
        for label, (own, config) in compared.items()
    ]


Compared = dict[str, tuple[ComparedMethod | None, StreamConfig]]
"""Label to method (None: the one that is asked for) and configuration."""


def _focus(base: StreamConfig, queue: QueueConfig) -> Compared:  # noqa: ARG001
    focuses: tuple[Focus, ...] = ("equal", "initial", "middle", "last")
    infinite: Compared = {
        focus: ("infinite-audio", replace(base, sampling=replace(base.sampling, focus=focus))) for focus in focuses
    }
    return {"concatenate": ("concatenate", base), **infinite, "fifo": ("fifo", base)}


def _steps(base: StreamConfig, queue: QueueConfig) -> Compared:
    first = replace(base.sampling, sampler="ddim", eta=0.0, focus="equal")
    second = replace(base.sampling, sampler="dpmpp_2m", eta=0.0)
    steps = {
        "200 equal": (200, first),
        "250 equal": (250, first),
        "curved, 130": (130, replace(first, focus="last")),
        "second order, 40": (40, second),
        "second order, 30": (30, second),
    }
    compared: Compared = {}
    for label, (num_steps, sampling) in steps.items():
        options = replace(base.queue, steps_per_shift=max(1, round(num_steps / queue.num_chunks)))
        compared[label] = None, replace(base, queue=options, sampling=sampling)
    return compared


def _methods(base: StreamConfig, queue: QueueConfig) -> Compared:  # noqa: ARG001
    methods: tuple[ComparedMethod, ...] = ("fifo", "concatenate", "crossfade", "slide", "plain-fifo", "fifo-diffusion")
    return {method: (method, base) for method in methods}


def _parts(base: StreamConfig, queue: QueueConfig) -> Compared:
    options, sampling = base.queue, base.sampling
    small = max(1, queue.chunk_frames // 4)
    chunks = replace(options, chunk_frames=small, num_chunks=queue.queue_frames // small, steps_per_shift=1)
    factor = sampling.factor
    changed = {
        "as configured": base,
        "no context": replace(base, queue=replace(options, context_frames=0)),
        f"context {queue.context_frames // 2}": replace(
            base, queue=replace(options, context_frames=queue.context_frames // 2)
        ),
        f"chunk {small}": replace(base, queue=chunks),
        f"steps {queue.num_steps * 2}": replace(
            base, queue=replace(options, steps_per_shift=queue.steps_per_shift * 2)
        ),
        "eta 0.3": replace(base, sampling=replace(sampling, sampler="dpmpp_2m_sde", eta=0.3)),
        "focus initial": replace(base, sampling=replace(sampling, focus="initial")),
        "focus last": replace(base, sampling=replace(sampling, focus="last")),
        f"focus last, P {3 * factor:g}": replace(base, sampling=replace(sampling, focus="last", factor=3 * factor)),
        "first order": replace(base, sampling=replace(sampling, sampler="ddim", eta=0.0)),
    }
    return {label: (None, config) for label, config in changed.items()}


def _guards(base: StreamConfig, queue: QueueConfig) -> Compared:  # noqa: ARG001
    guards = {
        "none": GuardConfig(pull=0.0),
        "pull": GuardConfig(pull=1.0),
        "weak pull": GuardConfig(pull=0.3, mean_zone=0.5),
        "slow pull": GuardConfig(pull=1.0, beginning_seconds=8.0, average_seconds=10.0),
    }
    compared: Compared = {label: (None, replace(base, guard=guard)) for label, guard in guards.items()}
    null = replace(base, guard=guards["none"], timing=replace(base.timing, mode="null"))
    compared["null timing"] = None, null
    return compared


_COMPARED: dict[str, Callable[[StreamConfig, QueueConfig], Compared]] = {
    "focus": _focus,
    "steps": _steps,
    "methods": _methods,
    "parts": _parts,
    "guard": _guards,
}
