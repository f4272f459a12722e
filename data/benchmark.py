"""How fast training data comes: `python -m data.benchmark --folder my_audio --shards my_shards --latents my_latents`.

Seconds of audio a second, for each source and number of workers, and where the time of one item goes. A training step
waits for its data if it takes less than batch size x crop length / that speed.
"""

import cProfile
import pstats
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audio import SAMPLE_RATE
from data.cli import run
from data.datamodule import AudioDataModule, DataConfig, LatentDataModule
from data.latent_folder import LatentIndex
from models.errors import UserError, check_bounds

# What a profile's functions count as: the first that matches.
_STAGES = {
    "decode": ("soundfile.py", "pyav.py"),
    "resample": ("soxr",),
    "headers": ("damaged_headers.py",),
    "tar": ("tarfile.py", "tariterators.py", "tar_shards.py"),
    "draw": ("loading.py", "latent_source.py", "captions.py"),
}


def main(
    folder: str | None = None,
    shards: str | None = None,
    latents: str | None = None,
    workers: tuple[int, ...] = (0, 1, 2),
    batch_size: int = 8,
    crop_samples: int = 65_536,
    batches: int = 20,
) -> None:
    """Measure how fast training batches come from a folder, shards and latents.

    Args:
        folder: a folder of audio, or a manifest.
        shards: audio shards, as of --data.shards.
        latents: a folder of latents; training on audio encodes besides, this does not.
        workers: numbers of processes that prepare data ahead; 0: none.
        batch_size: crops in a batch.
        crop_samples: length of a crop (samples).
        batches: batches that are timed, after two that are not.
    """
    sources = {name: value for name, value in (("folder", folder), ("shards", shards), ("latents", latents)) if value}
    if not sources:
        raise UserError("give something to measure: --folder DIR, --shards URLS or --latents DIR")
    check_bounds("batches", batches, 1, 10**6)
    rows = [["source", *(f"{number} workers" for number in workers), "time of an item without workers (ms)"]]
    for name, value in sources.items():
        config = {name: value, "batch_size": batch_size, "crop_samples": crop_samples, "num_validation": 0}
        speeds = [measure(config | {"num_workers": number}, batches) for number in tqdm(workers, desc=name)]
        stages = profile(config | {"num_workers": 0}, batches)
        parts = ", ".join(f"{stage} {milliseconds:.2f}" for stage, milliseconds in stages.items())
        rows.append([name, *(f"{speed:.0f} s/s" for speed in speeds), parts])
    sys.stdout.write("".join("\t".join(row) + "\n" for row in rows))


def open_stream(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return endless training batches."""
    data = DataConfig(**config)
    return iter((AudioDataModule(data) if data.latents is None else LatentDataModule(data)).train_dataloader())


def measure(config: dict[str, Any], batches: int) -> float:
    """Return seconds of audio a second; padding of short clips counts as audio."""
    stream = open_stream(config)
    next(stream)
    next(stream)  # workers have started, files are known
    start = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return batches * config["batch_size"] * crop_seconds(config) / (time.perf_counter() - start)


def crop_seconds(config: dict[str, Any]) -> float:
    """Length of a crop; of latents whole frames."""
    if "latents" not in config:
        return config["crop_samples"] / SAMPLE_RATE
    hop = LatentIndex.load(Path(config["latents"])).hop_length
    return -(-config["crop_samples"] // hop) * hop / SAMPLE_RATE


def profile(config: dict[str, Any], batches: int) -> dict[str, float]:
    """Return the time (ms) of an item by stage, measured in this process."""
    stream = open_stream(config)
    next(stream)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in islice(stream, batches):
        pass
    profiler.disable()
    times = dict.fromkeys([*_STAGES, "other"], 0.0)
    for (file, _, function), row in pstats.Stats(profiler).stats.items():  # pyright: ignore[reportAttributeAccessIssue]
        times[stage_of(file, function)] += row[2]  # without what it calls
    return {stage: 1_000 * seconds / (batches * config["batch_size"]) for stage, seconds in times.items() if seconds}


def stage_of(file: str, function: str) -> str:
    """Return the stage that a function of a file belongs to."""
    for stage, names in _STAGES.items():
        if any(name in file or name in function for name in names):
            return stage
    return "other"


if __name__ == "__main__":
    run(main)
