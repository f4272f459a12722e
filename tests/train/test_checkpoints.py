"""Checkpoints of trainings: which there are, when they appear, and which are refused."""

import csv
import math
import os
import tempfile
from pathlib import Path

import pytest
import torch

from models.errors import UserError
from models.files import PARTIAL
from tests.train.conftest import train, weights
from train import checkpoints

SHORT = ["--trainer.accelerator", "cpu", "--trainer.validation_batches", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of six steps with all kinds of checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    options = [*SHORT, "--trainer.max_steps", "6", "--trainer.checkpoint_every_steps", "2"]
    options += [
        "--trainer.keep_every_steps",
        "3",
        "--trainer.best_by",
        "val/loss",
        "--trainer.validate_every_steps",
        "2",
    ]
    return train("clap", folder, *options)


def logged(folder: Path, column: str) -> dict[int, float]:
    with next((folder / "csv").rglob("metrics.csv")).open() as file:
        return {int(row["step"]) + 1: float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def steps_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["completed_steps"]


def test_last_kept_and_best(run: Path):
    assert {path.name: steps_of(path) for path in run.glob("step_*.ckpt")} == {
        "step_0000003.ckpt": 3, "step_0000006.ckpt": 6
    }  # fmt: skip
    assert steps_of(run / "last.ckpt") == 6
    losses = logged(run, "val/loss")
    assert sorted(losses) == [2, 4, 6]
    assert losses[steps_of(run / "best.ckpt")] == min(losses.values())
    assert not list(run.rglob(f"*{PARTIAL}"))


@pytest.mark.parametrize("name", ["step_0000003.ckpt", "best.ckpt"])
def test_a_training_goes_on_from_any_of_them(run: Path, tmp_path: Path, name: str):
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    options = [*SHORT, "--trainer.max_steps", "7", "--resume", str(run / name)]
    assert steps_of(train("clap", tmp_path, *options) / "last.ckpt") == 7


def test_an_unknown_value_is_refused_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [*SHORT, "--trainer.max_steps", "2", "--trainer.validate_every_steps", "1", "--trainer.best_by", "loss"]
    with pytest.raises(SystemExit):
        train("clap", tmp_path / "run", *options)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "trainer.best_by: validation has no loss, it has" in error
    assert "val/loss" in error


def test_a_checkpoint_appears_when_its_values_are_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, seen, replace = tmp_path / "run", [], os.replace

    def replacing(source: Path, target: Path) -> None:
        replace(source, target)
        if target.name == "last.ckpt":
            seen.append((steps_of(target), sorted(logged(folder, "train/loss"))))

    monkeypatch.setattr(checkpoints.os, "replace", replacing)
    every = ["--trainer.checkpoint_every_steps", "1", "--trainer.log_every_steps", "1"]
    train("clap", folder, *SHORT, *every, "--trainer.max_steps", "4", "--trainer.validate_every_steps", "2")
    assert seen == [(step, list(range(1, step + 1))) for step in range(1, 5)]


def test_the_systems_temporary_folder_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    train("clap", tmp_path / "run", *SHORT, "--trainer.max_steps", "1")
    assert (tmp_path / "run/last.ckpt").exists()


def test_what_a_killed_process_left_is_removed(run: Path, tmp_path: Path):
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    (tmp_path / "export").mkdir()
    left = [tmp_path / f".last.ckpt.123{PARTIAL}", tmp_path / f"export/.vae.safetensors.123{PARTIAL}"]
    for path in left:
        path.write_bytes(b"half")
    train("clap", tmp_path, *SHORT, "--trainer.max_steps", "7", "--resume", str(run / "last.ckpt"))
    assert not any(path.exists() for path in left)


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    state = {"state_dict": {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf])}, "optimizer_states": []}
    with pytest.raises(UserError, match=r"not finite \(b\)"):
        checkpoints.PlainCheckpointIO().save_checkpoint(state, path)
    state["optimizer_states"] = [{"state": {3: {"exp_avg": torch.tensor(math.nan)}}}]
    assert checkpoints.non_finite(state) == ["b", "0.state.3.exp_avg"]
    assert not path.exists()


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.PlainCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def damaged(run: Path, folder: Path, kind: str) -> str:
    """Make something that cannot be resumed and return its path."""
    path = folder / "given.ckpt"
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    if kind == "export":
        return str(run / "export")
    if kind == "weights":
        return str(next((run / "export").glob("*.safetensors")))
    if kind == "folder":
        return str(run)
    if kind == "cut":
        path.write_bytes((run / "last.ckpt").read_bytes()[:50_000])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pointer":
        path.write_text("version https://git-lfs\noid sha256:0\nsize 1\n")
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        key = next(key for key, value in checkpoint["state_dict"].items() if value.ndim == 2)
        if kind == "nan":
            checkpoint["state_dict"][key][0, 0] = math.nan
        elif kind == "sizes":
            checkpoint["state_dict"][key] = checkpoint["state_dict"][key][:1]
        elif kind == "other training":
            checkpoint["training"] = "vae"
        elif kind == "newer":
            checkpoint["format"] += 1
        elif kind == "optimiser":
            checkpoint["optimiser"] = "muon"
        torch.save(checkpoint, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("export", "is an exported model"),
        ("weights", "is an exported model"),
        ("folder", "--resume last"),
        ("cut", "is not a checkpoint of a training, or it is damaged"),
        ("text", "is not a checkpoint of a training"),
        ("pointer", "is a Git LFS pointer"),
        ("foreign", "is no checkpoint of this program's trainings"),
        ("nan", "holds values that are not finite"),
        ("sizes", "is of a model of another configuration"),
        ("other training", "is a checkpoint of train.vae: resume it with python -m train.vae"),
        ("newer", "newer version"),
        ("optimiser", "was trained with optimiser.name muon"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(
    run: Path, tmp_path: Path, kind: str, told: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tokenizer").symlink_to(run / "tokenizer")
    given = damaged(run, tmp_path, kind)
    with pytest.raises(SystemExit) as stop:
        train("clap", tmp_path / "run", *SHORT, "--resume", given)
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "run/last.ckpt").exists()


def test_a_resumed_run_is_the_one_without_a_stop(run: Path, tmp_path: Path):
    """The kept checkpoint of step 3 leads to the weights of step 6."""
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    options = [*SHORT, "--trainer.max_steps", "6", "--trainer.validate_every_steps", "2"]
    resumed = weights(train("clap", tmp_path, *options, "--resume", str(run / "step_0000003.ckpt")))
    for key, value in weights(run).items():
        assert torch.equal(resumed[key], value), key
