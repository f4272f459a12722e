"""Figures of `evaluate long`: cost against length."""

import math
from pathlib import Path

from infer.evaluate.results import Results
from infer.pictures import new_figure

LENGTHS, SPECTROGRAMS = "length.png", "spectrograms.png"
SHOWN_SECONDS = 20.0


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
