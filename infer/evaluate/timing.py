"""The command `evaluate timing`: is the sound as long as the model is told?

Every clip fills the whole window while the model is told another length; what follows it should be silence. As figure
5 of Stable Audio (2402.04825): asked against measured length.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infer.evaluate.fact_prompts import plain_prompts
from infer.evaluate.generation import GenerationConfig, Request, make_clips, read_clip
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results
from infer.generate import window_seconds
from infer.metrics.facts import active_seconds
from infer.pictures import new_figure
from models.errors import UserError
from models.text_to_audio import TextToAudio

FIGURE = "timing.png"
TOLERANCE_SECONDS = 0.5


def main(
    lengths: int = 4,
    seconds: float | None = None,
    prompts: list[str] = [],  # noqa: B006
    samples: int = 1,
    threshold_db: float = -50.0,
    seed: int = 0,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008
    out: Path = Path("runs/evaluate/timing"),
    cache: Path = Path("runs/evaluate/cache"),
    report_clips: int = 12,
) -> None:
    """Compare the length that is asked for with the length of the sound.

    Args:
        lengths: How many lengths, whole seconds evenly spread over the window.
        seconds: Length of the window; none: that of the training.
        prompts: What to ask for; none: six plain sounds that last.
        samples: Clips of each prompt and length.
        threshold_db: Level above which there is sound (dBFS).
        seed: Of the noise.
        generation: How the model makes sound.
        out: Folder for the results.
        cache: Folder that keeps generated clips for the next time.
        report_clips: Clips in report.html.
    """
    if lengths < 2 or samples < 1:
        raise UserError(f"lengths must be at least 2 and samples at least 1, got {lengths} and {samples}")
    if generation.mode != "clip":
        raise UserError("the length of an endless stream is not the model's choice: use --generation.mode clip")
    window = window_seconds(TextToAudio.load(generation.model)) if seconds is None else seconds
    asked = sorted(set(np.linspace(1, max(1, int(window)), lengths).round().tolist()))
    texts = prompts or [item.prompt for item in plain_prompts(window)[:6]]
    requests = [
        Request(prompt=text, seed=seed + number, seconds=window, seconds_total=length)
        for length in asked
        for number, text in enumerate(texts * samples)
    ]
    paths = make_clips(cache, generation, requests)
    measured = [active_end(path, threshold_db) for path in paths]
    results = Results(
        command="evaluate timing",
        settings={"lengths": asked, "prompts": texts, "samples": samples, "threshold_db": threshold_db},
        seed=seed,
        weights=generation.settings["weights"],
    )
    results.settings["generation"] = generation.settings
    for length in asked:
        chosen = {
            f"{r.prompt} {r.seed}": m for r, m in zip(requests, measured, strict=True) if r.seconds_total == length
        }
        results.add_average(f"measured length, asked {length:g} s", "generated", chosen, "none")
    pairs = list(zip(requests, measured, strict=True))
    met = {f"{r.prompt} {r.seed} {r.seconds_total}": abs(m - (r.seconds_total or 0)) for r, m in pairs}
    results.add_average("error (s)", "generated", met, "lower")
    within = {name: float(error <= TOLERANCE_SECONDS) for name, error in met.items()}
    results.add_average(f"share within {TOLERANCE_SECONDS:g} s", "generated", within)
    results.clips = [{"prompt": r.prompt, "seed": r.seed, "asked": r.seconds_total, "measured": m} for r, m in pairs]
    results.save(out)
    draw(out / FIGURE, [r.seconds_total or 0 for r in requests], measured)
    clips = (
        ReportClip(title=f"{r.prompt}, {r.seconds_total:g} s", audio={f"ends at {m:.1f} s": read_clip(path)})
        for (r, m), path in list(zip(pairs, paths, strict=True))[:report_clips]
    )
    write_report(out, results, clips, [FIGURE])
    sys.stdout.write(f"{results.table()}wrote {out}\n")


def active_end(path: Path, threshold_db: float) -> float:
    """When the sound of a clip ends, in seconds from the clip's start."""
    audio = read_clip(path).flip(-1)
    silence = audio.new_full((2, 1), 1.0)  # sound at the clip's start, so that silence there counts as length
    return active_seconds(np.concatenate((audio.numpy(), silence.numpy()), axis=1), threshold_db=threshold_db)


def draw(path: Path, asked: Sequence[float], measured: Sequence[float]) -> None:
    """Draw asked against measured length, with the line of equality."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    longest = max(asked)
    axes.plot([0, longest], [0, longest], color="gray", linewidth=1)
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, len(asked)) * longest
    axes.scatter(np.asarray(asked) + jitter, measured, s=12, alpha=0.6)
    axes.set_xlabel("asked (s)")
    axes.set_ylabel("measured (s)")
    axes.set_aspect("equal")
    figure.savefig(path)
