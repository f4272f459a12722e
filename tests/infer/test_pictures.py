"""Pictures show what is there, whatever backend of matplotlib a notebook asks for."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from infer.pictures import draw_spectrograms, write_spectrogram

ROOT = Path(__file__).parents[2]


def tone(hz: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(44_100) / 44_100)[None]


def test_a_spectrogram_shows_a_tone_where_it_is(tmp_path: Path):
    write_spectrogram(tmp_path / "low.png", tone(300))
    write_spectrogram(tmp_path / "high.png", tone(9000))
    rows = [int(imread(tmp_path / f"{name}.png")[..., :3].sum(axis=(1, 2)).argmax()) for name in ("low", "high")]
    assert rows[0] > 100  # of 128, from the top
    assert rows[1] < 40


def test_spectrograms_one_above_the_other(tmp_path: Path):
    figure = draw_spectrograms("tones", {"low": tone(300), "high": tone(9000)})
    figure.savefig(tmp_path / "both.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["low", "high"]
    assert imread(tmp_path / "both.png").shape[1] > 500


PROGRAM = """
import sys
import {module}
from infer.pictures import draw_spectrograms
import torch
assert "matplotlib" not in sys.modules or "{module}".startswith("train"), "loaded at import"
draw_spectrograms("a", {{"b": torch.ones(2, 4096)}}).savefig("{path}")
"""


@pytest.mark.parametrize("module", ["infer.importance", "infer.evaluate.timing", "train.vae"])
@pytest.mark.parametrize("backend", ["module://not_installed.backend_inline", "TkAgg"])
def test_no_backend_of_a_notebook_is_needed(module: str, backend: str, tmp_path: Path):
    path = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module, path=path)],
        env=os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 1000
