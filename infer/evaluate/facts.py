"""The command `evaluate facts`: does the sound have the tempo, pitch, side, instrument ... that its prompt states?

The generated clips stand beside real clips of the same facts (the ceiling), these after the autoencoder (the ceiling
of what the model can make), and the generated clips of other prompts that state the same fact (the floor). The last
column says how far of the way from floor to real clips the generated ones are.
"""

import dataclasses
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from data.encoding import reconstruct
from infer.embedders import Embedder, load_embedder
from infer.embedders.musicnn import TAGS
from infer.evaluate.fact_checks import TOLERANCES, FactMeter, FactPrompt, Reading
from infer.evaluate.fact_prompts import FACTS, corpus_prompts, plain_prompts
from infer.evaluate.generation import GenerationConfig, Request, make_clips, read_clip
from infer.evaluate.instrument_prompts import INSTRUMENT_FACTS, instrument_prompts
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results, Score, markdown_table
from infer.generate import window_seconds
from models.device import resolve_device
from models.errors import UserError
from models.text_to_audio import TextToAudio
from models.vae import VAE

logger = logging.getLogger(__name__)

MAX_OTHERS = 20
"""Clips of other prompts that each fact is compared with."""
GENERATED, REAL, CODED, OTHERS = "generated", "real", "real, through the VAE", "generated, other prompts"
SHARE = "share of the way"
FACTS_OF = {"synthetic": FACTS, "instruments": INSTRUMENT_FACTS}


def main(
    corpus: Literal["synthetic", "instruments"] = "synthetic",
    prompts: int = 32,
    plain: bool = True,
    seconds: float | None = None,
    facts: list[str] = [],  # noqa: B006
    kinds: list[str] = [],  # noqa: B006
    held_out: bool = True,
    through_vae: bool = True,
    soundfont: Path | None = None,
    seed: int = 0,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008
    out: Path = Path("runs/evaluate/facts"),
    cache: Path = Path("runs/evaluate/cache"),
    report_clips: int = 24,
) -> None:
    """Measure whether generated sounds have the facts that their prompts state.

    Args:
        corpus: Whose prompts and real clips: sounds made by signal processing (data.synthetic), or pieces played by
            instruments (data.instruments).
        prompts: Prompts of the corpus; of the synthetic one with one sound each; 0 for none.
        plain: Add the fixed list of plain synthetic prompts: kinds alone, drum loops at 90, 120, 140 bpm, notes, sides.
        seconds: Length of a clip; none: the window the model was trained on.
        facts: What to measure; none: all of the corpus.
        kinds: Kinds of synthetic sound to ask for; none: all.
        held_out: Prompts that hold combinations or wordings which training never sees; false: new ones of its kind.
        through_vae: Also measure the real clips after the model's autoencoder.
        soundfont: A General MIDI SoundFont that plays the instruments; none: the installed one.
        seed: Of prompts and noise.
        generation: How the model makes sound.
        out: Folder for the results.
        cache: Folder that keeps generated clips for the next time.
        report_clips: Clips in report.html; 0 writes none.
    """
    seconds = _window(generation.model) if seconds is None else seconds
    facts = facts or list(FACTS_OF[corpus])
    _check_facts(facts, FACTS_OF[corpus], corpus)
    meter = FactMeter(seconds, *_tagger(facts, generation.device))
    facts = [fact for fact in facts if meter.can_measure(fact)]
    asked: list[FactPrompt] = []
    if prompts and corpus == "synthetic":
        asked += corpus_prompts(prompts, seconds, seed=seed, held_out=held_out, facts=facts, kinds=kinds)
    elif prompts:
        asked += instrument_prompts(prompts, seconds, seed=seed, held_out=held_out, facts=facts, soundfont=soundfont)
    if plain and corpus == "synthetic":
        asked += plain_prompts(seconds)
    if not asked:
        raise UserError("there is nothing to measure: ask for some prompts, or for the plain ones")
    requests = [Request(prompt=item.prompt, seed=seed + index, seconds=seconds) for index, item in enumerate(asked)]
    paths = make_clips(cache, generation, requests)
    settings = {
        "corpus": corpus,
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
    measured = measure(asked, paths, facts, meter, vae)
    _score(results, asked, measured, facts)
    results.notes += [f"{fact}: {TOLERANCES[fact]}" for fact in facts]
    results.save(out)
    write_report(out, results, _report_clips(asked, paths, measured, report_clips))
    sys.stdout.write(f"{clip_table(asked, measured)}\n{results.table()}\nwrote {out}\n")


def _check_facts(facts: Sequence[str], known: Sequence[str], corpus: str) -> None:
    unknown = [fact for fact in facts if fact not in known]
    if unknown:
        raise UserError(f"unknown facts of {corpus}: {', '.join(unknown)}; known are {', '.join(known)}")


def _tagger(facts: Sequence[str], device: str) -> tuple[Embedder | None, tuple[str, ...]]:
    """The judge that names instruments, where it is wanted and its package is installed, and its tags."""
    if "instrument tag" not in facts:
        return None, ()
    try:
        return load_embedder("musicnn", device=device), TAGS
    except UserError as error:
        logger.warning("left out: instrument tag: %s", error)
        return None, ()


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


def _score(results: Results, asked: Sequence[FactPrompt], measured: Sequence[Measured], facts: Sequence[str]) -> None:
    """Add the share of prompts whose facts are met, of each fact and of all, and the share of the way."""
    names = _names(asked)
    everything: dict[str, dict[str, float]] = {subject: {} for subject in (GENERATED, REAL, CODED, OTHERS)}
    for fact in facts:
        scores: dict[str, dict[str, float]] = {}
        for subject, all_of_subject in everything.items():
            scores[subject] = {
                name: sum(reading.met for reading in readings) / len(readings)
                for name, one in zip(names, measured, strict=True)
                if (readings := one.get(subject, fact))
            }
            all_of_subject |= {f"{name}, {fact}": value for name, value in scores[subject].items()}
        _add_scores(results, fact, scores)
    _add_scores(results, "all facts", everything)
    for name, item, one in zip(names, asked, measured, strict=True):
        readings = {s: [dataclasses.asdict(r) for r in one.by_subject.get(s, [])] for s in (GENERATED, REAL, CODED)}
        results.clips.append({"name": name, "prompt": item.prompt, "readings": readings})


def _add_scores(results: Results, measure: str, scores: dict[str, dict[str, float]]) -> None:
    """Add a row: every subject, and the share of the way from floor to real clips on the prompts that have a floor."""
    for subject, values in scores.items():
        if values:
            results.add_average(measure, subject, values)
    common = [name for name in scores[GENERATED] if name in scores[OTHERS]]
    if common:
        made, real, floor = (sum(scores[s][n] for n in common) / len(common) for s in (GENERATED, REAL, OTHERS))
        share = (made - floor) / (real - floor) if real > floor else math.nan
        results.scores.append(Score(measure=measure, subject=SHARE, value=share, num=len(common)))


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
