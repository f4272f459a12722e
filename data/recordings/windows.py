"""One-shots placed in windows: once or a few times, with pauses, sometimes to one side; the caption says which."""

from dataclasses import dataclass

import numpy as np

from data.recordings.plans import Event, Group, Plan
from data.recordings.table import Recording

TIMES = {2: "twice", 3: "three times", 4: "four times"}
LONGEST_WINDOW_SECONDS = 12.0
LOOP_SECONDS = (8.0, 16.0)
_SIDE_PAN = 0.85


@dataclass(frozen=True)
class Source:
    """A recording that is at hand."""

    recording: Recording
    seconds: float
    is_mono: bool


def plan_window(source: Source, group: Group, name: str, generator: np.random.Generator) -> Plan:
    """Place a one-shot in a window."""
    times = 1
    if source.seconds < 4:
        most = min(4, max(1, int((LONGEST_WINDOW_SECONDS - 1) / (source.seconds + 0.6))))
        times = int(generator.integers(1, most, endpoint=True))
    side = str(generator.choice(["", "on the left", "on the right"], p=[0.75, 0.125, 0.125])) if source.is_mono else ""
    pan = {"": 0.0, "on the left": -_SIDE_PAN, "on the right": _SIDE_PAN}[side]
    start = float(generator.uniform(0, 0.8))
    events = []
    for _ in range(times):
        gain = 10 ** (generator.uniform(-3, 0) / 20)
        events.append(Event(recording=source.recording, start_seconds=start, gain=gain, pan=pan))
        start += source.seconds + float(generator.uniform(0.1, 1.2))
    clauses = [clause for clause in (TIMES.get(times, ""), side) if clause]
    captions = source.recording.captions
    return Plan(
        name=name,
        group=group,
        captions=captions + [", ".join([caption, *clauses]) for caption in captions if clauses],
        events=events,
        peak_db=float(generator.uniform(-9, -1)),
        tail_seconds=float(generator.uniform(0.3, 1.5)),
        facts={"times": times, "side": side or "centre"},
    )


def plan_loop(source: Source, name: str, generator: np.random.Generator) -> Plan:
    """Repeat a loop without a gap."""
    length = generator.uniform(*LOOP_SECONDS)
    times = max(1, round(length / source.seconds))
    events = [
        Event(
            recording=source.recording, start_seconds=index * source.seconds, stop_seconds=(index + 1) * source.seconds
        )
        for index in range(times)
    ]
    return Plan(
        name=name,
        group="instruments",
        captions=source.recording.captions,
        events=events,
        peak_db=float(generator.uniform(-6, -1)),
    )
