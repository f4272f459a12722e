"""Streams of `evaluate endless` on disk: made once, and measured as they are made."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from data.audio_writer import AudioWriter
from infer.evaluate.endless_experiments import Variant
from infer.evaluate.endless_measures import JOINED_SECONDS, measure_latent_joins, measure_times
from infer.evaluate.fact_prompts import FactPrompt
from infer.evaluate.methods import compared_stream
from infer.hashes import code_of_sound
from infer.speed import peak_memory, reset_peak_memory
from models.text_to_audio import TextToAudio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """One stream on disk, and how it was made."""

    path: Path
    chunk_seconds: float
    notes: dict[str, float]
    """What was measured while it was made."""


def play_all(
    model: TextToAudio,
    variants: Sequence[Variant],
    streams: Sequence[tuple[FactPrompt, int]],
    folder: Path,
    weights: dict[str, str],
) -> dict[str, dict[str, Played]]:
    """Play every prompt and seed in every variant, but for the streams that are there: {label: {name: Played}}.

    Args:
        weights: hashes of the model's.
    """
    played: dict[str, dict[str, Played]] = {variant.label: {} for variant in variants}
    with tqdm(total=sum(variant.seconds for variant in variants) * len(streams), unit="s", desc="play") as bar:
        for variant in variants:
            for item, seed in streams:
                name = f"{item.prompt} {seed}"
                key = stream_key(variant, name, weights)
                path = folder / f"{variant.label} {name} {key}.flac".replace(" ", "-")
                played[variant.label][name] = play(model, variant, item, seed, path)
                bar.update(variant.seconds)
    return played


def stream_key(variant: Variant, name: str, weights: dict[str, str]) -> str:
    """Eight digits that change with everything a stream depends on."""
    content = json.dumps([dataclasses.asdict(variant), name, weights, code_of_sound()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def play(model: TextToAudio, variant: Variant, item: FactPrompt, seed: int, path: Path) -> Played:
    """Write a stream to a file, and what was measured meanwhile beside it, unless they are there."""
    config = dataclasses.replace(variant.config, seconds=variant.seconds)
    stream = compared_stream(model, item.prompt, config, variant.method, seed)
    chunk_seconds = stream.chunk_samples / model.sample_rate
    beside = path.with_suffix(".json")
    if path.exists() and beside.exists():
        return Played(path=path, chunk_seconds=chunk_seconds, notes=json.loads(beside.read_text()))
    chunks: list[Tensor] = []

    def keep(latents: Tensor) -> None:
        if len(chunks) * chunk_seconds < JOINED_SECONDS:
            chunks.append(latents[0].cpu())

    stream.on_latents = keep
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished.flac")
    reset_peak_memory(model.device)
    times, num_samples = [time.perf_counter()], 0
    with AudioWriter(unfinished) as writer:
        for piece in stream:
            times.append(time.perf_counter())
            writer.write(piece[0])
            num_samples += piece.shape[-1]
    notes = {
        "real-time factor": (time.perf_counter() - times[0]) * model.sample_rate / max(num_samples, 1),
        "control latency (s of sound)": stream.lead_seconds,
        "peak memory (MiB)": peak_memory(model.device) / 2**20,
    }
    notes |= measure_times(times) | measure_latent_joins(chunks)
    unfinished.replace(path)
    beside.write_text(json.dumps(notes))
    return Played(path=path, chunk_seconds=chunk_seconds, notes=notes)
