"""One number that is not finite changes nothing, in every training, with accumulation and with two processes."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.cli import run
from tests.train.conftest import CONFIGS, MAINS, train, weights
from train.clap import ClapTraining
from train.diffusion_training import DiffusionTraining
from train.vae_training import VAETraining

MODULES = {"vae": VAETraining, "clap": ClapTraining, "diffusion": DiffusionTraining}
# The same learning rates whatever the length of a run, and no schedule of stages.
OPTIONS = {
    "vae": ["--stages.adversarial_start", "0"],
    "clap": ["--optimiser.final_share", "1", "--optimiser.ema_decay", "0.9"],
    "diffusion": ["--noise.finish_share", "0"],
}
QUIET = ["--trainer.validation_batches", "0", "--trainer.accelerator", "cpu"]


def poison(patch: pytest.MonkeyPatch, name: str, batches: set[int], rank: int = 0) -> None:
    """Let the first sample of some batches (counted from 0) of one process have a number that is not finite."""
    module = MODULES[name]
    training_step = module.training_step
    seen = [0]

    def poisoned(self: Any, batch: dict[str, Any], batch_idx: int) -> Any:
        if seen[0] in batches and self.global_rank == rank:
            batch["audio"][0, 0, 4000] = math.nan
        seen[0] += 1
        return training_step(self, batch, batch_idx)

    patch.setattr(module, "training_step", poisoned)


def state(folder: Path) -> dict[str, Tensor]:
    """Weights, averages, counts and the optimisers' state of a run."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    found = dict(checkpoint["state_dict"])
    for index, optimiser in enumerate(checkpoint["optimizer_states"]):
        for number, values in optimiser["state"].items():
            found |= {f"{index}/{number}/{key}": value for key, value in values.items()}
    return found


def parts_of(name: str, tiny_parts: list[str]) -> list[str]:
    return tiny_parts if name == "diffusion" else []


@pytest.mark.parametrize(
    ("name", "accumulated"), [("vae", 1), ("clap", 1), ("clap", 2), ("diffusion", 1), ("diffusion", 2)]
)
def test_one_bad_batch_changes_nothing(
    name: str, accumulated: int, tmp_path: Path, tiny_parts: list[str], caplog: pytest.LogCaptureFixture
):
    options = [*OPTIONS[name], *QUIET, *parts_of(name, tiny_parts)]
    options += ["--trainer.accumulate_grad_batches", str(accumulated)]
    before = train(name, tmp_path / "before", *options, "--trainer.max_steps", "3")
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, name, {3 * accumulated})
        after = train(name, tmp_path / "after", *options, "--trainer.max_steps", "4")
    assert "step 3 skipped, loss or gradient not finite" in caplog.text
    ours, theirs = state(before), state(after)
    different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert ours.keys() == theirs.keys()
    assert not different, f"{len(different)} of {len(ours)} differ, e.g. {different[:3]}"
    with (after / "csv/version_0/metrics.csv").open() as file:
        counted = [float(row["train/bad_steps"]) for row in csv.DictReader(file) if row["train/bad_steps"]]
    assert counted == [0, 0, 0, 1]


def main() -> None:
    """Train as one of several processes of which one meets a bad batch: NAME RANK BATCH [options of the training]."""
    name, rank, batch = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
    sys.argv[1:1] = [name, str(rank), str(batch)]  # what Lightning starts the other processes with
    poison(pytest.MonkeyPatch(), name, {batch}, rank)
    run(MAINS[name], argv=["--config", str(CONFIGS / f"{name}.yaml"), *sys.argv[4:]])


@pytest.mark.parametrize("name", ["clap", "diffusion"])
def test_a_bad_batch_of_one_process_costs_both_that_step_alone(name: str, tmp_path: Path, tiny_parts: list[str]):
    options = [*OPTIONS[name], *QUIET, *parts_of(name, tiny_parts), "--trainer.max_steps", "3"]
    options += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accumulate_grad_batches", "2"]
    command = [sys.executable, "-m", "tests.train.test_bad_batches", name, "1", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--run", str(tmp_path / "run"), *options],
        capture_output=True, text=True, env=environment, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("step 1 skipped, loss or gradient not finite") == 1
    values = weights(tmp_path / "run")
    assert all(value.isfinite().all() for value in values.values())
    checkpoint = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert checkpoint["bad_steps"] == {"total": 1, "in_a_row": 0}
    assert {float(s["step"]) for s in checkpoint["optimizer_states"][0]["state"].values()} == {2.0}


@pytest.mark.parametrize("name", ["clap", "diffusion"])
def test_a_run_of_bad_batches_ends_with_advice(
    name: str,
    tmp_path: Path,
    tiny_parts: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    options = [*OPTIONS[name], *QUIET, *parts_of(name, tiny_parts), "--trainer.max_steps", "30"]
    poison(monkeypatch, name, set(range(2, 30)))
    with pytest.raises(SystemExit) as stop:
        train(name, tmp_path / "run", *options)
    assert stop.value.code == 2
    assert "20 steps in a row without a finite loss and gradient, at step 21" in capsys.readouterr().err


if __name__ == "__main__":
    main()
