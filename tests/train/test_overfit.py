"""A handful of clips, learned by heart by the tiny configuration, come back by name."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from data.cli import run
from infer.guidance import GuidanceConfig, prompt_denoiser
from infer.samplers import draw_noise, make_generators, sample
from models.schedule import time_grid
from models.text_to_audio import TextToAudio
from tests.train.conftest import CONFIGS
from train import diffusion, diffusion_setup

NAMES = ["rain", "a clock", "a siren on the left", "drums"]
CHANNELS, FRAMES = 8, 32


def make_clips() -> Tensor:
    """Four clips of latents (4, channels, frames), as unlike as unit noise."""
    return torch.randn(4, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(0))


class FourClips(LightningDataModule):
    def __init__(self, *_: Any) -> None:
        super().__init__()

    def train_dataloader(self) -> "FourClips":
        return self

    def val_dataloader(self) -> list[dict[str, Any]]:
        return []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        clips, whole = make_clips().repeat(4, 1, 1), torch.ones(16, FRAMES, dtype=torch.bool)
        seconds = {"seconds_start": torch.zeros(16), "seconds_total": torch.ones(16)}
        while True:
            yield {"latents": clips, "frame_mask": whole, "prompt": NAMES * 4, **seconds}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_parts: list[str]) -> TextToAudio:
    folder = tmp_path_factory.mktemp("overfit")
    options = ["--trainer.max_steps", "300", "--optimiser.learning_rate", "4e-3", "--optimiser.final_share", "0.05"]
    logs = ["--trainer.validate_every_steps", "1000", "--trainer.checkpoint_every_steps", "1000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion_setup, "AudioDataModule", FourClips)
        argv = ["--config", str(CONFIGS / "diffusion.yaml"), "--run", str(folder), *tiny_parts, *options, *logs]
        run(diffusion.main, argv=argv)
    return TextToAudio.load(folder / "export")


@torch.no_grad()
def test_clips_come_back_by_name(learned: TextToAudio):
    denoiser = prompt_denoiser(learned, NAMES, GuidanceConfig(scale=1.0), [(0.0, 1.0)] * len(NAMES))
    noise = draw_noise(make_generators(0, 4), CHANNELS, FRAMES, learned.device)
    latents = sample(denoiser, noise, time_grid(32))
    distance = (latents[:, None] - make_clips()[None]).square().mean(dim=(2, 3))  # (prompts, clips)
    assert distance.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert distance.diag().max() < 0.5  # of about 2 between clips
