"""Two processes that share the batch train what one process with the whole batch trains."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.train.conftest import CONFIGS, train, weights

NUM_STEPS = 6
LONG = ["--data.crop_samples", "65536"]
OPTIONS = {
    # The adversarial terms begin at step 2 and the encoder is frozen at step 4: every way the gradients are shared.
    "vae": ["--stages.adversarial_start", "2", "--stages.joint_steps", "4"],
    # Crops twice as long as the queue: windows of two lengths, not as many of each on either process.
    "diffusion": ["--noise.finish_share", "0.34", "--conditioning.padding_share", "0.5", *LONG],
    "diffusion-muon": ["--optimiser.name", "muon", "--noise.finish_share", "0.34", *LONG],
}
# AdamW turns the rounding of gradients near 0 into steps of full size; a network left out of the sum is off by more.
TOLERANCE = {"vae": 0.03, "diffusion": 0.005}
TRAINED = {"vae": ("vae.", "discriminator."), "diffusion": ("model.unet.", "model.conditioner.")}


def losses(folder: Path, column: str) -> list[float]:
    with (folder / "csv/version_0/metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def start_two(name: str, folder: Path, *options: str, strategy: str = "ddp") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"train.{name}", "--config", str(CONFIGS / f"{name}.yaml"), "--run", str(folder)]
    devices = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", strategy]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *devices, *options], stdout=pipe, stderr=pipe, text=True, env=environment)


def train_on_two(name: str, folder: Path, *options: str, strategy: str = "ddp") -> Path:
    process = start_two(name, folder, *options, strategy=strategy)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors[-3000:]
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
        first_half = ["--trainer.max_steps", str(NUM_STEPS // 2), "--noise.finish_share", "0"]
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_one_of_two_processes_stops_both_after_a_whole_step(tmp_path: Path, number: int):
    """A process that stopped alone would wait for the other one for ever."""
    process = start_two("vae", tmp_path, "--trainer.max_steps", "100000", "--trainer.checkpoint_every_steps", "1")
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode in (130, 143)
    assert "Traceback" not in errors
    saved = re.search(r"saved step (\d+), continue with --resume last", errors)
    assert saved
    train("vae", tmp_path, "--resume", "last", "--trainer.max_steps", str(int(saved[1]) + 1))


def children_of(process: int) -> list[int]:
    """Processes that a process started, by the system's table."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the children from /proc")
def test_a_process_that_dies_ends_the_other_with_one_line(tmp_path: Path):
    process = start_two("vae", tmp_path, "--trainer.max_steps", "100000", "--trainer.checkpoint_every_steps", "1")
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < end
            time.sleep(0.1)
        (child,) = [
            pid for pid in children_of(process.pid) if b"train.vae" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(child, signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 2
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "another process of this training ended" in line
    assert "--resume last" in line
