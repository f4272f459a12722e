"""Figures of `evaluate long`: cost against length, and the spectrograms of what is compared, one above the other."""

import math
from pathlib import Path

import matplotlib
from torch import Tensor

from data.audio import SAMPLE_RATE
from infer.evaluate.report import LOWEST_DB, mel_levels_db
from infer.evaluate.results import Results

LENGTHS, SPECTROGRAMS = "length.png", "spectrograms.png"
SHOWN_SECONDS = 20.0


def draw_lengths(path: Path, results: Results, seconds: dict[str, float]) -> None:
    """Draw peak memory and real-time factor against the length of each variant."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = {(score.measure, score.subject): score.value for score in results.scores}
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.5), dpi=150)
    for axes, measure in zip(panels, ("peak memory (MiB)", "real-time factor"), strict=True):
        heights = [values.get((measure, label), math.nan) for label in seconds]
        axes.plot(list(seconds.values()), heights, marker="o")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.2 * max(heights))
        axes.set_xlabel("length (s)")
        axes.set_ylabel(measure)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def draw_spectrograms(path: Path, title: str, sounds: dict[str, Tensor]) -> None:
    """Draw mel spectrograms of sounds (2, samples), one above the other."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(sounds), 1, figsize=(9, 1.3 * len(sounds) + 0.8), dpi=110, squeeze=False)
    for axes, (label, audio) in zip(panels[:, 0], sounds.items(), strict=True):
        extent = (0.0, audio.shape[-1] / SAMPLE_RATE, 0.0, 1.0)
        axes.imshow(mel_levels_db(audio), aspect="auto", extent=extent, vmin=LOWEST_DB, vmax=0.0, cmap="magma")
        axes.set_ylabel(label, rotation=0, horizontalalignment="right", verticalalignment="center")
        axes.set_yticks([])
    panels[0, 0].set_title(title)
    panels[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
