"""Measure a call: seconds of audio per second, and peak memory.

On CUDA, memory is the most that PyTorch had allocated, weights included; on a CPU it is the peak of the process's
resident memory, libraries and weights included (Linux: since the measurement began; elsewhere: since the process did).
"""

import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WARM_UP = 2
"""Calls before the first that counts."""
NUM_TOKENS = 79
"""Length of the conditioning that is measured: 77 text tokens, 2 timing tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """One measured operation."""

    operation: str
    """What was called."""
    audio_seconds: float
    """Audio that one call makes or takes, all of the batch (s)."""
    seconds: float
    """Median duration of a call (s)."""
    peak_mib: float
    """Peak memory (MiB)."""

    @property
    def audio_per_second(self) -> float:
        """Seconds of audio per second; above 1 is faster than real time."""
        return self.audio_seconds / self.seconds


def measure(
    operation: str,
    call: Callable[[], Any],
    audio_seconds: float,
    device: torch.device,
    repeats: int,
    warm_up: int = WARM_UP,
) -> Speed:
    """Time calls after a warm-up.

    Args:
        audio_seconds: audio that a call makes or takes.
        repeats: calls that count; their median is taken.
    """
    for _ in range(warm_up):
        call()
    reset_peak_memory(device)
    durations = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        durations.append(time.perf_counter() - start)
    return Speed(
        operation=operation,
        audio_seconds=audio_seconds,
        seconds=statistics.median(durations),
        peak_mib=peak_memory(device) / 2**20,
    )


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak begin here, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes; see the module's header."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if Path("/proc/self/status").exists():
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return int(status["VmHWM"].split()[0]) * 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_device(device: torch.device) -> str:
    """Name the device, with its threads where that matters."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    return f"{device.type} ({name}, {torch.get_num_threads()} threads)"


def write_report(settings: dict[str, Any], speeds: list[Speed], as_json: bool) -> None:
    """Write settings and measurements to standard output: a table, or one JSON object."""
    if as_json:
        rows = [dataclasses.asdict(speed) | {"audio_per_second": speed.audio_per_second} for speed in speeds]
        sys.stdout.write(json.dumps({"settings": settings, "results": rows}, indent=2) + "\n")
        return
    for name, value in settings.items():
        sys.stdout.write(f"{name}: {value}\n")
    width = max(len(speed.operation) for speed in speeds)
    sys.stdout.write(f"\n{'operation':{width}}  audio s/s     call s  audio s a call   peak MiB\n")
    for speed in speeds:
        sys.stdout.write(
            f"{speed.operation:{width}}  {speed.audio_per_second:9.2f}  {speed.seconds:9.4f}"
            f"  {speed.audio_seconds:14.2f}  {speed.peak_mib:9.0f}\n"
        )
