"""Clips for a list of prompts, made once: each is a file in a cache, named by everything that it depends on.

An interrupted run goes on where it stopped; the same settings find their clips again. Several processes share the
work, each on its own device where there are several.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE, read_audio
from data.audio_writer import AudioWriter, write_audio
from infer.fifo import EndlessStream, StreamConfig
from infer.generate import generate
from infer.guidance import GuidanceConfig
from infer.hashes import code_of_sound, folder_hashes
from infer.samplers import SamplingConfig
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
from models.text_to_audio import TextToAudio


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the model makes sound."""

    model: Path = SHIPPED_MODEL
    """Folder of the model."""
    mode: Literal["clip", "fifo"] = "clip"
    """Clips of a fixed length, or the beginning of an endless stream."""
    num_steps: int = 32
    """In mode clip: network calls for a clip."""
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    """In mode clip: sampler and time grid."""
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    """In mode clip: how strongly the prompt acts."""
    stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
    """In mode fifo: the stream, as infer.fifo plays it."""
    skip_seconds: float = 0.0
    """In mode fifo: sound at the start of the stream that is thrown away (s)."""
    batch_size: int = 8
    """Clips at once."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps; cuda means all GPUs where there are several processes."""
    processes: int = 1
    """Processes that share the work."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1 or self.processes < 1:
            raise UserError(
                "num_steps, batch_size and processes must be at least 1, "
                f"got {self.num_steps}, {self.batch_size} and {self.processes}"
            )
        if not 0 <= self.skip_seconds < math.inf:
            raise UserError(f"skip_seconds must be at least 0, got {self.skip_seconds:g}")

    @cached_property
    def settings(self) -> dict:
        """What the sound depends on, as plain values; weights and code by their hashes."""
        settings = dataclasses.asdict(self)
        for name in ("model", "batch_size", "device", "processes"):
            del settings[name]
        for name in ("stream", "skip_seconds") if self.mode == "clip" else ("num_steps", "sampling", "guidance"):
            del settings[name]
        return settings | {"weights": folder_hashes(self.model), "code": code_of_sound()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One clip to make."""

    prompt: str
    seed: int
    seconds: float
    seconds_total: float | None = None
    """In mode clip: what the model is told, where that is not the length; the clip is then not cut to it."""


def clip_path(cache: Path, config: GenerationConfig, request: Request) -> Path:
    """Where the cache holds a clip."""
    key = json.dumps([config.settings, dataclasses.asdict(request)], sort_keys=True, default=str)
    return cache / "clips" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.flac"


def make_clips(cache: Path, config: GenerationConfig, requests: Sequence[Request]) -> list[Path]:
    """Make the clips that the cache does not hold yet, and return the path of each.

    Raises:
        UserError: the model cannot make such a clip.
    """
    paths = [clip_path(cache, config, request) for request in requests]
    missing = {path: request for path, request in zip(paths, requests, strict=True) if not path.exists()}
    todo = sorted(missing.items(), key=lambda item: item[1].seconds)
    if todo:
        (cache / "clips").mkdir(parents=True, exist_ok=True)
        processes = min(config.processes, len(todo))
        if processes == 1:
            model = TextToAudio.load(config.model, resolve_device(config.device))
            _make_batches(config, model, todo)
        else:
            _spread(config, todo, processes)
    return paths


def read_clip(path: Path) -> Tensor:
    """Read a clip: (2, samples)."""
    return torch.from_numpy(read_audio(path))


def _spread(config: GenerationConfig, todo: list[tuple[Path, Request]], processes: int) -> None:
    num_gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
    devices = [f"cuda:{index % num_gpus}" if num_gpus else config.device for index in range(processes)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(dataclasses.replace(config, device=device), todo[index::processes], index))
        for index, device in enumerate(devices)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if failed:
        raise UserError(f"{len(failed)} of {processes} processes failed (exit code {failed[0]}), see their messages")


def _work(config: GenerationConfig, todo: list[tuple[Path, Request]], index: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // config.processes))
    model = TextToAudio.load(config.model, resolve_device(config.device))
    _make_batches(config, model, todo, position=index)


def _make_batches(
    config: GenerationConfig, model: TextToAudio, todo: list[tuple[Path, Request]], position: int = 0
) -> None:
    bar_format = "{l_bar}{bar}| {n:.1f}/{total:.0f} clips [{elapsed}<{remaining}]"
    with tqdm(total=len(todo), desc="generate", position=position, bar_format=bar_format) as bar:
        for seconds, group in groupby(todo, key=lambda item: item[1].seconds):
            alike = list(group)
            for first in range(0, len(alike), config.batch_size):
                batch = alike[first : first + config.batch_size]
                make = _make_fixed if config.mode == "clip" else _make_streams
                make(config, model, dict(batch), seconds, bar)


def _make_fixed(
    config: GenerationConfig, model: TextToAudio, batch: dict[Path, Request], seconds: float, bar: tqdm
) -> None:
    requests = list(batch.values())
    prompts, seeds = [request.prompt for request in requests], [request.seed for request in requests]

    def on_step(_: int) -> None:
        bar.update(len(batch) / config.num_steps)

    audio = generate(
        model,
        prompts,
        seconds=seconds,
        seeds=seeds,
        guidance=config.guidance,
        seconds_total=[request.seconds_total or seconds for request in requests],
        sampling=config.sampling,
        num_steps=config.num_steps,
        on_step=on_step,
    )
    for path, clip in zip(batch, audio, strict=True):
        unfinished = _unfinished(path)
        write_audio(unfinished, clip)
        unfinished.replace(path)


def _make_streams(
    config: GenerationConfig, model: TextToAudio, batch: dict[Path, Request], seconds: float, bar: tqdm
) -> None:
    """Make the beginnings of endless streams, in constant memory."""
    skip, length = (round(value * SAMPLE_RATE) for value in (config.skip_seconds, seconds))
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(AudioWriter(_unfinished(path))) for path in batch]
        done = 0
        for pieces in stream_audio(config, model, list(batch.values()), skip + length):
            for writer, piece in zip(writers, pieces, strict=True):
                writer.write(piece[:, max(0, skip - done) :])
            done += pieces.shape[-1]
            bar.update(len(batch) * pieces.shape[-1] / (skip + length))
    for path in batch:
        _unfinished(path).replace(path)


def stream_audio(
    config: GenerationConfig, model: TextToAudio, requests: Sequence[Request], num_samples: int
) -> Iterator[Tensor]:
    """Play several prompts at once: pieces (streams, 2, samples), `num_samples` in all."""
    seconds = num_samples / model.sample_rate
    needs_length = config.stream.timing.needs_length
    stream_config = dataclasses.replace(config.stream, seconds=seconds) if needs_length else config.stream
    prompts, seeds = [request.prompt for request in requests], [request.seed for request in requests]
    stream = EndlessStream(model, prompts, stream_config, seeds=seeds)
    stream.end_in(seconds)
    yield from stream


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.stem}.unfinished{path.suffix}")
