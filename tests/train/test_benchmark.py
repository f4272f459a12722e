"""The benchmark of training steps takes the trainings' own configurations and measures every stage."""

import json
from pathlib import Path

import pytest

from train.benchmark import start

CONFIGS = Path(__file__).parents[2] / "configs/tiny"


@pytest.mark.parametrize(
    ("what", "crop", "operations", "audio_seconds"),
    [
        ("vae", 4_096, ["joint", "joint, adversarial", "decoder, adversarial"], 2 * 4096 / 44_100),
        ("diffusion", 32_768, ["step, 32 frames"], 4 * 32 * 1024 / 44_100),
        ("diffusion", 65_536, ["step, 32 or 64 frames"], 4 * (0.45 * 64 + 0.55 * 32) * 1024 / 44_100),
    ],
)
def test_every_stage_is_measured(what: str, crop: int, operations: list[str], audio_seconds: float, capsys):
    options = ["--repeats", "1", "--trainer.accelerator", "cpu", f"--data.crop_samples={crop}", "--json"]
    start([what, "--config", str(CONFIGS / f"{what}.yaml"), *options])
    report = json.loads(capsys.readouterr().out)
    assert [row["operation"] for row in report["results"]] == operations
    assert [row["audio_seconds"] for row in report["results"]] == pytest.approx([audio_seconds] * len(operations))
    assert all(row["seconds"] > 0 and row["peak_mib"] > 50 for row in report["results"])


@pytest.mark.parametrize("arguments", [[], ["clap"]])
def test_what_cannot_be_measured_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        start(arguments)
    assert stop.value.code == 2
    assert "what" in capsys.readouterr().err
