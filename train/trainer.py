"""What every training shares: the Lightning trainer, its run folder, resuming and reproducible noise."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from models.errors import UserError
from train.callbacks import RESUME_NAME, ResumeCheckpoint, StepProgressBar, StopAfterSteps

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[1] / "configs"
"""Folder with a folder of YAML files for every scale."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    max_steps: int = 1_000
    """Optimiser steps of the whole run, those before a resume included."""
    max_time: str | None = None
    """Stop this session after DD:HH:MM:SS; resume later with --resume last."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, mps."""
    devices: int | str = "auto"
    """Number of devices a node."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: str = "auto"
    """How devices share the work: auto, ddp (whole networks on each), fsdp (the U-Net's weights divided among them)."""
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    """Number format of the networks; losses are always computed in float32."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients make one optimiser step."""
    log_every_steps: int = 10
    """Steps between two log lines."""
    validate_every_steps: int = 500
    """Steps between two validations and demos."""
    validation_batches: int = 8
    """Validation batches that are used, 0 for no validation."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints for resuming."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every_steps", "validate_every_steps", "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"trainer.{name} must be at least 1, got {getattr(self, name)}")


def fit(
    module: LightningModule,
    data: LightningDataModule,
    config: TrainerConfig,
    folder: Path,
    resume: str | None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Train `module` in a run folder, from the start or from a checkpoint, and return the trainer.

    Args:
        resume: "last" for the run folder's newest checkpoint, a path for another one, None to start anew.

    Raises:
        FileNotFoundError: there is no checkpoint to resume from.
        UserError: the run folder already holds a training and `resume` is None.
    """
    checkpoint = _resume_path(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    loggers: list[Logger] = [
        TensorBoardLogger(folder, name=None, version="tensorboard"),
        CSVLogger(folder, name="csv"),  # one version a session: a resume keeps what is there
    ]
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(config, module),
        precision=config.precision,
        max_epochs=-1,
        max_time=config.max_time,
        accumulate_grad_batches=config.accumulate_grad_batches,
        log_every_n_steps=config.log_every_steps,
        val_check_interval=config.validate_every_steps * config.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        limit_val_batches=config.validation_batches,
        num_sanity_val_steps=0,
        logger=loggers,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        enable_model_summary=False,
        callbacks=[
            StopAfterSteps(config.max_steps),
            StepProgressBar(config.max_steps),
            *callbacks,
            ResumeCheckpoint(folder, config.checkpoint_every_steps),
        ],
    )
    if isinstance(trainer.strategy, DDPStrategy) and not module.automatic_optimization:
        # Several losses a step, each for some of the networks: a backward pass reaches a part of the parameters.
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    with warnings.catch_warnings():
        # Averages and frozen parts are in evaluation mode on purpose; the other one is between Lightning and torch.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def _strategy(config: TrainerConfig, module: LightningModule) -> str | Strategy:
    if config.strategy != "fsdp":
        return config.strategy
    if type(module).configure_model is LightningModule.configure_model:
        raise UserError("trainer.strategy fsdp divides the U-Net of train.diffusion; take ddp for this training")
    return ModelParallelStrategy(save_distributed_checkpoint=False)


def seed_run(seed: int) -> None:
    """Begin a training: seed the initial weights; everything drawn later comes from `step_generator`.

    Numbers too small for float32's full precision count as 0 from here on: gradients that fade into them make a step
    on a CPU five times as long.
    """
    torch.set_flush_denormal(True)
    seed_everything(seed, workers=True, verbose=False)


def step_generators(seed: int, step: int, batch: int, rank: int = 0) -> list[torch.Generator]:
    """Return the noise source of every sample of a rank's batch, each on the CPU.

    A source depends on the seed, the step and the sample's number in the global batch and on nothing else: a resumed
    training draws what an uninterrupted one would have drawn, and two processes draw what one with twice the batch
    does.
    """
    return [step_generator(seed, step, 1 + rank * batch + index) for index in range(batch)]


def step_generator(seed: int, step: int, number: int = 0) -> torch.Generator:
    """Return a noise source of one step: number 0 is the one that all ranks share."""
    mixed = torch.tensor([seed, number, step], dtype=torch.int64)
    multipliers = torch.tensor([0x9E3779B97F4A7C1, 0xD6E8FEB86659FD9, 0xA0761D6478BD642], dtype=torch.int64)
    return torch.Generator().manual_seed(int((mixed * multipliers).sum().item()) & 0x7FFF_FFFF_FFFF_FFFF)


def _resume_path(folder: Path, resume: str | None) -> str | None:
    last = folder / RESUME_NAME
    if resume is None:
        if last.exists():
            raise UserError(f"{folder} already holds a training: continue it with --resume last, or choose --run")
        return None
    path = last if resume == "last" else Path(resume)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint to resume from at {path}")
    return str(path)
