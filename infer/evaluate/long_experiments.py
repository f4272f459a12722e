"""Which streams the experiments on endless sound compare.

    E1  offline, and equal, initial, middle, last focus as InfiniteAudio has them, beside the queue as configured
    E2  200 and 250 equal steps, curved under 150, second order under 50
    E3  lengths up to the asked one                     E4  the same, for memory and time alone
    E5  the queue beside concatenation, crossfade, sliding window and plain FIFO
    E6  context, chunk, steps, noise, focus and sampler, one changed at a time
    E7  guards against drift, each alone

Source: Kong et al. 2025, InfiniteAudio (2506.03020), tables 1 to 3 and figure 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from infer.fifo.baselines import StreamMethod
from infer.fifo.config import FifoConfig
from infer.fifo.guards import GuardConfig
from infer.fifo.stream_config import StreamConfig
from models.errors import UserError
from models.schedule import Focus

Experiment = Literal["E1", "E2", "E3", "E4", "E5", "E6", "E7"]

LENGTHS_SECONDS = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make a stream."""

    label: str
    config: StreamConfig
    seconds: float


def variants(experiment: Experiment, base: StreamConfig, seconds: float) -> list[Variant]:
    """List what an experiment compares.

    Args:
        base: what is not under test.
        seconds: length of a stream; of the longest one in E3 and E4.
    """
    if experiment not in get_args(Experiment):
        raise UserError(f"no experiment {experiment!r}, expected one of {', '.join(get_args(Experiment))}")
    if experiment in ("E3", "E4"):
        lengths = [*(length for length in LENGTHS_SECONDS if length < seconds), seconds]
        return [Variant(label=f"{length:g} s", config=base, seconds=length) for length in lengths]
    return [
        Variant(label=label, config=config, seconds=seconds) for label, config in _COMPARED[experiment](base).items()
    ]


def _focus(base: StreamConfig) -> dict[str, StreamConfig]:
    focuses: tuple[Focus, ...] = ("equal", "initial", "middle", "last")
    infinite = {
        focus: replace(base, method="infinite-audio", fifo=replace(base.fifo, focus=focus)) for focus in focuses
    }
    return {"offline": replace(base, method="concatenate"), **infinite, "ours": base}


def _steps(base: StreamConfig) -> dict[str, StreamConfig]:
    def with_steps(num_steps: int, queue: FifoConfig) -> StreamConfig:
        micro_steps = max(1, round(num_steps / queue.num_chunks))
        return replace(base, fifo=replace(queue, micro_steps=micro_steps))

    first_order = replace(base.fifo, sampler="ddim", eta=0.0, focus="equal")
    return {
        "200 equal": with_steps(200, first_order),
        "250 equal": with_steps(250, first_order),
        "curved, 130": with_steps(130, replace(first_order, focus="last")),
        "second order, 40": with_steps(40, replace(base.fifo, sampler="dpmpp_2m", eta=0.0)),
        "second order, 30": with_steps(30, replace(base.fifo, sampler="dpmpp_2m", eta=0.0)),
    }


def _methods(base: StreamConfig) -> dict[str, StreamConfig]:
    methods: tuple[StreamMethod, ...] = ("fifo", "concatenate", "crossfade", "slide", "plain-fifo")
    return {method: replace(base, method=method) for method in methods}


def _parts(base: StreamConfig) -> dict[str, StreamConfig]:
    queue = base.fifo
    changed = {
        "no context": replace(queue, context_mode="none", sink=0),
        f"context {queue.context // 2}": replace(queue, context=queue.context // 2, sink=0),
        f"chunk {max(1, queue.chunk // 4)}": replace(
            queue,
            chunk=max(1, queue.chunk // 4),
            num_chunks=queue.queue_frames // max(1, queue.chunk // 4),
            micro_steps=1,
        ),
        f"steps {queue.num_steps * 2}": replace(queue, micro_steps=queue.micro_steps * 2),
        "eta 0.3": replace(queue, sampler="dpmpp_2m_sde", eta=0.3),
        "focus initial": replace(queue, focus="initial"),
        "focus last": replace(queue, focus="last"),
        f"focus last, P {3 * queue.factor:g}": replace(queue, focus="last", factor=3 * queue.factor),
        "first order": replace(queue, sampler="ddim", eta=0.0),
    }
    return {"as configured": base} | {label: replace(base, fifo=fifo) for label, fifo in changed.items()}


def _guards(base: StreamConfig) -> dict[str, StreamConfig]:
    queue = replace(base.fifo, context_noise=0.0, sink=0)
    pulls = {
        "pull": GuardConfig(pull=1.0),
        "weak pull": GuardConfig(pull=0.3, mean_zone=0.5),
        "slow pull": GuardConfig(pull=1.0, beginning_seconds=8.0, seconds=10.0),
        "pull to training": GuardConfig(pull=0.3, mean_zone=1.5, anchor="training"),
        "renoise": GuardConfig(pull=0.0, renoise=True),
    }
    none = replace(base, fifo=queue, guards=GuardConfig(pull=0.0))
    return (
        {"none": none}
        | {label: replace(none, guards=guards) for label, guards in pulls.items()}
        | {
            "context noise": replace(none, fifo=replace(queue, context_noise=0.03)),
            "sink": replace(none, fifo=replace(queue, sink=queue.num_context // 2)),
            "null timing": replace(none, timing=replace(base.timing, mode="null")),
        }
    )


_COMPARED: dict[str, Callable[[StreamConfig], dict[str, StreamConfig]]] = {
    "E1": _focus,
    "E2": _steps,
    "E5": _methods,
    "E6": _parts,
    "E7": _guards,
}
