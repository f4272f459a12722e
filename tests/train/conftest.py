"""Trainings of the tiny configurations, run as a user runs them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.cli import run
from train import clap, diffusion, vae

CONFIGS = Path(__file__).parents[2] / "configs/tiny"
MAINS = {"vae": vae.main, "clap": clap.main, "diffusion": diffusion.main}


def train(name: str, folder: Path, *options: str) -> Path:
    """Run a training of the tiny configuration in `folder` and return it."""
    run(MAINS[name], argv=["--config", str(CONFIGS / f"{name}.yaml"), "--run", str(folder), *options])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights and optimiser-free state of a run's resume checkpoint."""
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="session")
def tiny_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a tiny autoencoder."""
    return train("vae", tmp_path_factory.mktemp("vae") / "run")


@pytest.fixture(scope="session")
def tiny_clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a tiny CLAP."""
    return train("clap", tmp_path_factory.mktemp("clap") / "run", "--trainer.max_steps", "4")


@pytest.fixture(scope="session")
def tiny_parts(tiny_vae: Path, tiny_clap: Path) -> list[str]:
    """Options that give `train.diffusion` its trained parts."""
    return ["--vae", str(tiny_vae / "export"), "--text_encoder", str(tiny_clap / "export")]


@pytest.fixture
def assert_same_weights() -> Callable[[Path, Path], None]:
    """Compare the resume checkpoints of two runs, bit for bit."""

    def compare(first: Path, second: Path) -> None:
        ours, theirs = weights(first), weights(second)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{len(different)} of {len(ours)} tensors differ, e.g. {different[:3]}"

    return compare
