"""The command `evaluate facts`: does the sound have the tempo, pitch, side ... that its prompt states?

The generated clips stand beside real clips of the same facts (the ceiling), these after the autoencoder (the ceiling
of what the model can make), and the generated clips of other prompts that state the same fact (the floor).
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.encoding import reconstruct
from infer.evaluate.fact_checks import TOLERANCES, FactMeter, Reading
from infer.evaluate.fact_prompts import FACTS, FactPrompt, corpus_prompts, plain_prompts
from infer.evaluate.generation import GenerationConfig, Request, make_clips, read_clip
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results, markdown_table
from infer.generate import window_seconds
from models.device import resolve_device
from models.errors import UserError
from models.text_to_audio import TextToAudio
from models.vae import VAE

MAX_OTHERS = 20
"""Clips of other prompts that each fact is compared with."""
GENERATED, REAL, CODED, OTHERS = "generated", "real", "real, through the VAE", "generated, other prompts"


def main(
    prompts: int = 32,
    plain: bool = True,
    seconds: float | None = None,
    facts: list[str] = list(FACTS),  # noqa: B006
    kinds: list[str] = [],  # noqa: B006
    held_out: bool = True,
    through_vae: bool = True,
    seed: int = 0,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008
    out: Path = Path("runs/evaluate/facts"),
    cache: Path = Path("runs/evaluate/cache"),
    report_clips: int = 24,
) -> None:
    """Measure whether generated sounds have the facts that their prompts state.

    Args:
        prompts: Prompts of the procedural corpus, one sound each; 0 for none.
        plain: Add the fixed list of plain prompts: kinds alone, drum loops at 90, 120, 140 bpm, notes, sides.
        seconds: Length of a clip; none: the window the model was trained on.
        facts: What to measure.
        kinds: Kinds of sound to ask for; none: all.
        held_out: Prompts that hold combinations or wordings which training never sees; false: new ones of its kind.
        through_vae: Also measure the real clips after the model's autoencoder.
        seed: Of prompts and noise.
        generation: How the model makes sound.
        out: Folder for the results.
        cache: Folder that keeps generated clips for the next time.
        report_clips: Clips in report.html; 0 writes none.
    """
    seconds = _window(generation.model) if seconds is None else seconds
    asked = corpus_prompts(prompts, seconds, seed=seed, held_out=held_out, facts=facts, kinds=kinds) if prompts else []
    if plain:
        asked += plain_prompts(seconds)
    if not asked:
        raise UserError("there is nothing to measure: ask for some prompts, or for the plain ones")
    requests = [Request(prompt=item.prompt, seed=seed + index, seconds=seconds) for index, item in enumerate(asked)]
    paths = make_clips(cache, generation, requests)
    settings = {
        "prompts": prompts,
        "plain": plain,
        "seconds": seconds,
        "facts": facts,
        "kinds": kinds,
        "held_out": held_out,
        "generation": generation.settings,
    }
    results = Results(command="evaluate facts", settings=settings, seed=seed, weights=generation.settings["weights"])
    vae = VAE.load(generation.model).to(resolve_device(generation.device)) if through_vae else None
    measured = measure(asked, paths, facts, FactMeter(seconds), vae)
    _score(results, asked, measured)
    results.notes += [f"{fact}: {TOLERANCES[fact]}" for fact in FACTS if fact in facts]
    results.save(out)
    write_report(out, results, _report_clips(asked, paths, measured, report_clips))
    sys.stdout.write(f"{clip_table(asked, measured)}\n{results.table()}\nwrote {out}\n")


def _window(folder: Path) -> float:
    return window_seconds(TextToAudio.load(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The readings of one prompt, by subject; `OTHERS` has several for each fact."""

    by_subject: dict[str, list[Reading]]

    def get(self, subject: str, fact: str) -> list[Reading]:
        """The readings of a fact."""
        return [reading for reading in self.by_subject.get(subject, []) if reading.fact == fact]


def measure(
    asked: Sequence[FactPrompt], paths: Sequence[Path], facts: Sequence[str], meter: FactMeter, vae: VAE | None
) -> list[Measured]:
    """Measure every fact of every prompt in its clip, in a real one, and in the clips of other prompts."""
    measured, described = [], []
    for item, path in zip(tqdm(asked, desc="measure", unit="prompt"), paths, strict=True):
        own = [fact for fact in item.facts if fact in facts]
        real = item.real_clip()
        clip = read_clip(path)
        described.append({fact: meter.describe(clip, fact) for fact in own})
        readings = {
            GENERATED: [meter.judge(described[-1][fact], item, fact) for fact in own],
            REAL: [meter.read(real, item, fact) for fact in own],
        }
        if vae is not None:
            coded = through(vae, real)
            readings[CODED] = [meter.read(coded, item, fact) for fact in own]
        measured.append(Measured(by_subject=readings))
    stating = {fact: [i for i, found in enumerate(described) if fact in found] for fact in facts}
    for index, (item, one) in enumerate(zip(asked, measured, strict=True)):
        one.by_subject[OTHERS] = [
            meter.judge(described[other][fact], item, fact)
            for fact in described[index]
            for other in _others(stating[fact], index)
        ]
    return measured


def _others(stating: list[int], index: int) -> list[int]:
    """Up to MAX_OTHERS of the other prompts that state a fact, spread over all of them."""
    others = [i for i in stating if i != index]
    return others[:: max(1, math.ceil(len(others) / MAX_OTHERS))]


def through(vae: VAE, audio: Tensor) -> Tensor:
    """Encode and decode (2, samples)."""
    return torch.cat([coded for _, coded in reconstruct(vae, audio)], dim=-1).expand(2, -1)


def _score(results: Results, asked: Sequence[FactPrompt], measured: Sequence[Measured]) -> None:
    names = _names(asked)
    for fact in FACTS:
        if not any(one.get(GENERATED, fact) for one in measured):
            continue
        for subject in (GENERATED, REAL, CODED, OTHERS):
            shares = {
                name: sum(reading.met for reading in readings) / len(readings)
                for name, one in zip(names, measured, strict=True)
                if (readings := one.get(subject, fact))
            }
            if shares:
                results.add_average(fact, subject, shares)
    for name, item, one in zip(names, asked, measured, strict=True):
        readings = {s: [dataclasses.asdict(r) for r in one.by_subject.get(s, [])] for s in (GENERATED, REAL, CODED)}
        results.clips.append({"name": name, "prompt": item.prompt, "readings": readings})


def _names(asked: Sequence[FactPrompt]) -> list[str]:
    return [f"{index:03d} {item.prompt}" for index, item in enumerate(asked)]


def clip_table(asked: Sequence[FactPrompt], measured: Sequence[Measured]) -> str:
    """A line for each prompt and fact: asked, measured in the generated clip, in a real one, after the VAE."""
    lines = [["prompt", "fact", "asked", GENERATED, REAL, CODED]]
    for item, one in zip(asked, measured, strict=True):
        for reading in one.by_subject[GENERATED]:
            cells = [_cell(one.get(subject, reading.fact)) for subject in (GENERATED, REAL, CODED)]
            lines.append([item.prompt[:60], reading.fact, _value(reading.asked), *cells])
    return markdown_table(lines)


def _cell(readings: list[Reading]) -> str:
    return f"{'+' if readings[0].met else '.'} {_value(readings[0].measured)}" if readings else ""


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}"


def _report_clips(
    asked: Sequence[FactPrompt], paths: Sequence[Path], measured: Sequence[Measured], number: int
) -> Iterator[ReportClip]:
    """The last prompts, the plain ones among them, each with its sound and its readings."""
    for item, path, one in list(zip(asked, paths, measured, strict=True))[-number:] if number else []:
        notes = tuple(
            f"{reading.fact}: asked {_value(reading.asked)}, measured {_value(reading.measured)}"
            f"{'' if reading.met else ' (not met)'}"
            for reading in one.by_subject[GENERATED]
        )
        audio = {GENERATED: read_clip(path), REAL: item.real_clip()}
        yield ReportClip(title=item.prompt, notes=notes, audio=audio)
