"""Two processes that share the batch train what one process with the whole batch trains."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.conftest import CONFIGS, train, weights

NUM_STEPS = 6
OPTIONS = {
    # The adversarial terms begin at step 2 and the encoder is frozen at step 4: every way the gradients are shared.
    "vae": ["--optimiser.adversarial_start", "2", "--optimiser.joint_steps", "4"],
    "diffusion": ["--optimiser.finish_steps", "2"],
    "diffusion-muon": ["--optimiser.name", "muon", "--optimiser.finish_steps", "2"],
}
# AdamW turns the rounding of gradients near 0 into steps of full size; a network left out of the sum is off by more.
TOLERANCE = {"vae": 0.03, "diffusion": 0.005}
TRAINED = {"vae": ("vae.", "discriminator."), "diffusion": ("model.unet.", "model.conditioner.")}


def losses(folder: Path, column: str) -> list[float]:
    with (folder / "csv/version_0/metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def train_on_two(name: str, folder: Path, *options: str, strategy: str = "ddp") -> Path:
    command = [sys.executable, "-m", f"train.{name}", "--config", str(CONFIGS / f"{name}.yaml"), "--run", str(folder)]
    devices = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", strategy]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *devices, *options], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("name", "strategy", "variant"),
    [("vae", "ddp", ""), ("diffusion", "ddp", ""), ("diffusion", "fsdp", ""), ("diffusion", "ddp", "-muon")],
)
def test_two_processes_equal_one(name: str, strategy: str, variant: str, tmp_path: Path, tiny_parts: list[str]):
    parts = tiny_parts if name == "diffusion" else []
    options = ["--trainer.max_steps", str(NUM_STEPS), *OPTIONS[name + variant], *parts]
    one = train(name, tmp_path / "one", *options, "--data.batch_size", "4", "--trainer.devices", "1")
    options_of_two = [*options, "--data.batch_size", "2"]
    if strategy == "fsdp":  # in two sessions: weights and optimiser state are gathered and divided again
        first_half = ["--trainer.max_steps", str(NUM_STEPS // 2), "--optimiser.finish_steps", "0"]
        train_on_two(name, tmp_path / "two", *options_of_two, *first_half, strategy=strategy)
        options_of_two += ["--resume", "last"]
    two = train_on_two(name, tmp_path / "two", *options_of_two, strategy=strategy)
    if strategy == "ddp" and name == "diffusion":  # other terms are logged of the first process's share
        assert len(losses(one, "train/gradient")) == NUM_STEPS
        assert losses(two, "train/gradient") == pytest.approx(losses(one, "train/gradient"), rel=1e-3)
    ours, theirs = weights(one), weights(two)
    initial = weights(train(name, tmp_path / "none", *options, "--trainer.max_steps", "1"))
    keys = [key for key in ours if key.startswith(TRAINED[name]) and ours[key].is_floating_point()]
    moved = torch.cat([(ours[key] - initial[key]).flatten() for key in keys])
    apart = torch.cat([(ours[key] - theirs[key]).flatten() for key in keys])
    assert float(apart.norm()) < TOLERANCE[name] * float(moved.norm())
