"""The command `evaluate endless`: experiments on endless sound (`endless_experiments`).

Measured in the sound: seams at the joins of each method's chunks, a line at the chunk rate, course of the level,
repetition, consistency and drift of 2 s windows (mel statistics, standardised over all streams of the experiment),
agreement of 10 s windows with the prompt where there is a CLAP. Measured as it is made: seams of the latents, time,
memory. Real clips of the same sounds stand beside it.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from infer.embedders import Embedder, load_embedder
from infer.evaluate.endless_experiments import Experiment, variants
from infer.evaluate.endless_measures import (
    BETTER,
    PIECE_SECONDS,
    WINDOW_SECONDS,
    Sound,
    add_repetition,
    measure_agreement,
    measure_course,
    measure_joins,
    window_embedder,
)
from infer.evaluate.endless_streams import Played, play_all
from infer.evaluate.fact_prompts import FactPrompt, plain_prompts
from infer.evaluate.methods import ComparedMethod
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results
from infer.fifo.config import STREAM_GUIDANCE, QueueOptions, StreamConfig, with_known_focus
from infer.fifo.guard import GuardConfig
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from infer.hashes import folder_hashes
from infer.pictures import draw_spectrograms, new_figure
from infer.samplers import SamplingConfig
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
from models.text_to_audio import TextToAudio

POSITIONALS = ("experiment",)
REAL = "real"
LONGEST_REAL_SECONDS = 60.0
LENGTHS, SPECTROGRAMS = "length.png", "spectrograms.png"
SHOWN_SECONDS = 20.0


def main(
    experiment: Experiment,
    seconds: float = 30.0,
    prompts: int = 4,
    seeds: int = 1,
    method: ComparedMethod = "fifo",
    queue: QueueOptions = QueueOptions(),  # noqa: B008 - frozen, as all groups below
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008
    guidance: GuidanceConfig = STREAM_GUIDANCE,
    timing: StreamTiming = StreamTiming(),  # noqa: B008
    guard: GuardConfig = GuardConfig(),  # noqa: B008
    model: Path = SHIPPED_MODEL,
    clap: str = "",
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/evaluate/endless"),
    report_clips: int = 3,
) -> None:
    """Run an experiment on endless sound; streams that are in the folder already are not made again.

    Args:
        experiment: focus, steps, length, cost (memory and time alone), methods, parts, or guard.
        seconds: Length of a stream; of the longest one in length and cost.
        prompts: How many of the plain prompts.
        seeds: Streams of each prompt.
        method: Way to make the streams, where it is not under test: those of infer.fifo, or plain-fifo, slide,
            crossfade, concatenate.
        queue: The queue, where it is not the one that the model was trained for.
        sampling: Sampler and time grid.
        guidance: How strongly the prompt acts.
        timing: What the model is told about the place in the piece.
        guard: What holds drift back.
        model: Folder of the model.
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
    stream = StreamConfig(
        queue=queue, sampling=with_known_focus(sampling, model), guidance=guidance, timing=timing, guard=guard
    )
    settings = {"experiment": experiment, "seconds": seconds, "prompts": [item.prompt for item in items]}
    results = Results(
        command=f"evaluate endless {experiment}",
        settings=settings | {"seeds": seeds, "method": method, "stream": dataclasses.asdict(stream), "clap": clap},
        seed=seed,
        weights=folder_hashes(model),
    )
    compared = variants(experiment, stream, bundle.queues[0], seconds, method)
    streams = [(item, seed + number) for number in range(seeds) for item in items]
    played = play_all(bundle, compared, streams, out / "streams", results.weights)
    for variant in compared:
        _add_notes(results, variant.label, played[variant.label])
    if experiment != "cost":
        _add_sound(results, played, items, judge)
    figures = [SPECTROGRAMS]
    out.mkdir(parents=True, exist_ok=True)
    sounds = {label: Sound(by_name[f"{items[0].prompt} {seed}"].path) for label, by_name in played.items()}
    shown = {label: next(sound.pieces(SHOWN_SECONDS)) for label, sound in sounds.items()}
    draw_spectrograms(items[0].prompt, shown).savefig(out / SPECTROGRAMS)
    if experiment in ("length", "cost"):
        figures.append(LENGTHS)
        draw_lengths(out / LENGTHS, results, {variant.label: variant.seconds for variant in compared})
    results.save(out)
    write_report(out, results, _report_clips(played, items, seed, report_clips), figures)
    sys.stdout.write(f"{results.table()}wrote {out}\n")


def draw_lengths(path: Path, results: Results, seconds: dict[str, float]) -> None:
    """Draw peak memory and real-time factor against the length of each variant."""
    values = {(score.measure, score.subject): score.value for score in results.scores}
    figure = new_figure(9, 3.5)
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("peak memory (MiB)", "real-time factor"), strict=True):
        heights = [values.get((measure, label), math.nan) for label in seconds]
        axes.plot(list(seconds.values()), heights, marker="o")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.2 * max(heights))
        axes.set_xlabel("length (s)")
        axes.set_ylabel(measure)
    figure.savefig(path)


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
