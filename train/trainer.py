"""What every training shares: the Lightning trainer, its run folder, resuming and reproducible noise."""

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from models.errors import UserError, check_bounds
from train.callbacks import StepProgressBar, StopAfterSteps
from train.checkpoints import PlainCheckpointIO, ResumeCheckpoint, check_checkpoint, resume_path
from train.training import Training

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
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
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
    """Steps between two checkpoints for resuming, RUN/last.ckpt."""
    keep_every_steps: int = 0
    """Steps between two checkpoints that are kept, RUN/step_N.ckpt; 0 for none."""
    best_by: str | None = None
    """Validation value whose lowest makes RUN/best.ckpt, as val/loss."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every_steps", "validate_every_steps", "checkpoint_every_steps"):
            check_bounds(f"trainer.{name}", getattr(self, name), 1, 10**10)
        for name in ("validation_batches", "keep_every_steps"):
            check_bounds(f"trainer.{name}", getattr(self, name), 0, 10**10)
        check_bounds("trainer.num_nodes", self.num_nodes, 1, 100_000)
        check_bounds("trainer.accumulate_grad_batches", self.accumulate_grad_batches, 1, 1_000_000)
        if self.devices != "auto":
            if not isinstance(self.devices, int):
                raise UserError(f"trainer.devices must be auto or a number of devices, got {self.devices!r}")
            check_bounds("trainer.devices", self.devices, 1, 1_024)
        if self.max_time is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", self.max_time):
            raise UserError(f"trainer.max_time must be DD:HH:MM:SS, as 00:08:00:00, got {self.max_time!r}")


def fit(
    module: Training,
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
    checkpoint = resume_path(folder, resume)
    if checkpoint is not None:
        check_checkpoint(checkpoint, module)
    folder.mkdir(parents=True, exist_ok=True)
    resuming = ResumeCheckpoint(folder, config.checkpoint_every_steps, config.keep_every_steps, config.best_by)
    trainer = _make_trainer(module, config, folder, [*callbacks, resuming])
    with warnings.catch_warnings():
        # Averages and frozen parts are in evaluation mode on purpose; the other one is between Lightning and torch.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            if trainer.world_size == 1 or not is_lost_process(error):
                raise
            raise UserError(
                "another process of this training ended, and this one cannot go on alone (its own error stands above, "
                "unless it was killed): continue with --resume last"
            ) from error
    return trainer


def _make_trainer(module: Training, config: TrainerConfig, folder: Path, callbacks: Sequence[Callback]) -> Trainer:
    loggers: list[Logger] = [
        TensorBoardLogger(folder, name=None, version="tensorboard"),
        CSVLogger(folder, name="csv"),  # one version a session: a resume keeps what is there
    ]
    try:
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
            plugins=[PlainCheckpointIO()],
            callbacks=[StopAfterSteps(config.max_steps), StepProgressBar(config.max_steps), *callbacks],
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {error}") from error
    if isinstance(trainer.strategy, DDPStrategy) and not module.automatic_optimization:
        # Several losses a step, each for some of the networks: a backward pass reaches a part of the parameters.
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether an error is that another process went away while this one waited for it."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "NCCL")
    return isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in signs)


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
    check_bounds("seed", seed, 0, 2**32 - 1)
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
