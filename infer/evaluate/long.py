"""The command `evaluate long`: experiments on endless sound (`long_experiments`).

Measured in the sound: seams at the joins of each method's chunks, a line at the chunk rate, course of the level,
repetition, consistency and drift of 2 s windows (mel statistics, standardised over all streams of the experiment),
agreement of 10 s windows with the prompt where there is a CLAP. Measured as it is made: seams of the latents, time,
memory. Real clips of the same sounds stand beside it.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE
from data.audio_writer import AudioWriter
from infer.embedders import Embedder, load_embedder
from infer.evaluate.fact_prompts import FactPrompt, plain_prompts
from infer.evaluate.long_experiments import Experiment, Variant, variants
from infer.evaluate.long_figures import LENGTHS, SHOWN_SECONDS, SPECTROGRAMS, draw_lengths
from infer.evaluate.long_measures import (
    BETTER,
    JOINED_SECONDS,
    PIECE_SECONDS,
    WINDOW_SECONDS,
    Sound,
    add_repetition,
    measure_agreement,
    measure_course,
    measure_joins,
    measure_latent_joins,
    measure_times,
    window_embedder,
)
from infer.evaluate.methods import compared_stream
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results
from infer.fifo.config import StreamConfig
from infer.hashes import folder_hashes
from infer.pictures import draw_spectrograms
from infer.speed import peak_memory, reset_peak_memory
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
from models.text_to_audio import TextToAudio

POSITIONALS = ("experiment",)
REAL = "real"
LONGEST_REAL_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """One stream on disk, and how it was made."""

    path: Path
    chunk_seconds: float
    notes: dict[str, float]
    """What was measured while it was made."""


def main(
    experiment: Experiment,
    seconds: float = 30.0,
    prompts: int = 4,
    seeds: int = 1,
    model: Path = SHIPPED_MODEL,
    stream: StreamConfig = StreamConfig(),  # noqa: B008
    clap: str = "",
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/evaluate/long"),
    report_clips: int = 3,
) -> None:
    """Run an experiment on endless sound; streams that are in the folder already are not made again.

    Args:
        experiment: E1 focus, E2 steps, E3 length, E4 memory and time, E5 other methods, E6 parts, E7 the guard.
        seconds: Length of a stream; of the longest one in E3 and E4.
        prompts: How many of the plain prompts.
        seeds: Streams of each prompt.
        model: Folder of the model.
        stream: What is not under test.
        clap: Export of `train.clap` that compares sound and prompt; none: left out.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Of the first stream.
        out: Folder for streams and results.
        report_clips: Prompts in report.html.
    """
    if seconds < 4 * WINDOW_SECONDS or prompts < 1 or seeds < 1:
        raise UserError(f"a stream must have at least {4 * WINDOW_SECONDS:g} s, and there must be one: got {seconds:g}")
    items = plain_prompts(min(seconds, LONGEST_REAL_SECONDS))[:prompts]
    judge = load_embedder("clap", clap, device) if clap else None
    bundle = TextToAudio.load(model, resolve_device(device))
    settings = {"experiment": experiment, "seconds": seconds, "prompts": [item.prompt for item in items]}
    results = Results(
        command=f"evaluate long {experiment}",
        settings=settings | {"seeds": seeds, "stream": stream, "clap": clap},
        seed=seed,
        weights=folder_hashes(model),
    )
    compared = variants(experiment, stream, bundle.queues[0], seconds)
    names = [(item, seed + number) for number in range(seeds) for item in items]
    played: dict[str, dict[str, Played]] = {variant.label: {} for variant in compared}
    with tqdm(total=sum(variant.seconds for variant in compared) * len(names), unit="s", desc="play") as bar:
        for variant in compared:
            for item, stream_seed in names:
                name = f"{item.prompt} {stream_seed}"
                key = stream_key(variant, name, results.weights)
                path = out / "streams" / f"{variant.label} {name} {key}.flac".replace(" ", "-")
                played[variant.label][name] = play(bundle, variant, item, stream_seed, path)
                bar.update(variant.seconds)
    for variant in compared:
        _add_notes(results, variant.label, played[variant.label])
    if experiment != "E4":
        _add_sound(results, played, items, judge)
    figures = [SPECTROGRAMS]
    first = f"{items[0].prompt} {seed}"
    shown = {label: next(Sound(by_name[first].path).pieces(SHOWN_SECONDS)) for label, by_name in played.items()}
    out.mkdir(parents=True, exist_ok=True)
    draw_spectrograms(items[0].prompt, shown).savefig(out / SPECTROGRAMS)
    if experiment in ("E3", "E4"):
        figures.append(LENGTHS)
        draw_lengths(out / LENGTHS, results, {variant.label: variant.seconds for variant in compared})
    results.save(out)
    write_report(out, results, _report_clips(played, items, seed, report_clips), figures)
    sys.stdout.write(f"{results.table()}wrote {out}\n")


def stream_key(variant: Variant, name: str, weights: dict[str, str]) -> str:
    """Eight digits that change with everything a stream depends on."""
    content = json.dumps([dataclasses.asdict(variant), name, weights], sort_keys=True)
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
        "real-time factor": (time.perf_counter() - times[0]) * SAMPLE_RATE / max(num_samples, 1),
        "control latency (s of sound)": stream.lead_seconds,
        "peak memory (MiB)": peak_memory(model.device) / 2**20,
    }
    notes |= measure_times(times) | measure_latent_joins(chunks)
    unfinished.replace(path)
    beside.write_text(json.dumps(notes))
    return Played(path=path, chunk_seconds=chunk_seconds, notes=notes)


def _add_notes(results: Results, label: str, played: dict[str, Played]) -> None:
    for measure in dict.fromkeys(measure for one in played.values() for measure in one.notes):
        values = {name: one.notes[measure] for name, one in played.items() if measure in one.notes}
        results.add_average(measure, label, values, BETTER[measure])


def _add_sound(
    results: Results, played: dict[str, dict[str, Played]], items: list[FactPrompt], judge: Embedder | None
) -> None:
    """Measure all streams, and real clips of the same sounds as one subject more."""
    first = next(iter(played.values()))
    chunk_seconds = next(iter(first.values())).chunk_seconds
    windows: dict[str, dict[str, Tensor]] = {}
    embed = window_embedder()
    texts = {item.prompt: judge.embed_text([item.prompt])[0] for item in items} if judge else {}
    for label in tqdm([*played, REAL], desc="measure", unit="variant"):
        values: dict[str, dict[str, float]] = {}
        windows[label] = {}
        for name, sound, joins_every in _sounds(played.get(label), items, chunk_seconds):
            measured = measure_joins(sound.beginning(), joins_every) | measure_course(sound)
            if judge is not None:
                measured |= measure_agreement(judge, sound, texts[name.rsplit(" ", 1)[0]])
            windows[label][name] = torch.cat(
                [embed(piece).vectors for piece in sound.pieces(PIECE_SECONDS, least=WINDOW_SECONDS)]
            )
            for measure, value in measured.items():
                values.setdefault(measure, {})[name] = value
        for measure, by_name in values.items():
            results.add_average(measure, label, by_name, BETTER.get(measure, "none"))
    add_repetition(results, windows)


def _sounds(
    played: dict[str, Played] | None, items: list[FactPrompt], chunk_seconds: float
) -> Iterator[tuple[str, Sound, float]]:
    """Name, sound and distance of joins of each stream; for real clips the joins of the first variant."""
    if played is None:
        yield from ((f"{item.prompt} {REAL}", Sound(item.real_clip()), chunk_seconds) for item in items)
        return
    for name, one in played.items():
        yield name, Sound(one.path), one.chunk_seconds


def _report_clips(
    played: dict[str, dict[str, Played]], items: list[FactPrompt], seed: int, number: int
) -> Iterator[ReportClip]:
    """The first 30 s of each variant, side by side."""
    for item in items[:number]:
        sounds = {label: Sound(by_name[f"{item.prompt} {seed}"].path) for label, by_name in played.items()}
        sounds[REAL] = Sound(item.real_clip())
        yield ReportClip(title=item.prompt, audio={label: next(sound.pieces(30.0)) for label, sound in sounds.items()})
