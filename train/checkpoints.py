"""Checkpoints that a training goes on from: when they are written, how, and whether one fits.

    RUN/last.ckpt            the newest, replaced every n steps, at the end, on Ctrl-C and on SIGTERM
    RUN/step_0005000.ckpt    kept, every m steps
    RUN/best.ckpt            of the lowest value of a named validation loss

A checkpoint is written beside its place and synced; it takes its name when the values of its step are in the logs, so
that a resumed training's logs have no hole. None is written, or resumed from, that holds values that are not finite.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from data.interrupts import Interrupts
from models.errors import UserError
from models.files import PARTIAL, replacing, sync
from train.training import FORMAT, Training

logger = logging.getLogger(__name__)

LAST_NAME, BEST_NAME = "last.ckpt", "best.ckpt"


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to its path itself, without a detour through the system's temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if bad := non_finite(checkpoint):
            raise UserError(
                f"the training's state is not finite ({_listed(bad)}): it is not saved, resume the last one"
            )
        try:
            with open(path, "wb") as file:
                torch.save(checkpoint, file)
            sync(Path(path))
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise


class ResumeCheckpoint(Callback):
    """Writes the checkpoints of a run folder; see the header.

    Args:
        every_steps: steps between two replacements of the newest.
        keep_every_steps: steps between two that are kept; 0: none.
        best_by: validation value whose lowest makes the best one; None: there is none.
    """

    def __init__(self, folder: Path, every_steps: int, keep_every_steps: int = 0, best_by: str | None = None) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.keep_every_steps = keep_every_steps
        self.best_by = best_by
        self.best: float | None = None
        self.saved_at = -1
        self._partial = folder / f".{LAST_NAME}.{os.getpid()}{PARTIAL}"
        self._is_pending = False
        self._is_stopping = False
        # Both wait for the step's end, so that what is saved goes on exactly.
        self._interrupts = Interrupts(notice="told to stop: the step is finished first")
        self._entered = contextlib.ExitStack()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            remove_partial(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._entered.enter_context(self._interrupts)
        self._entered.enter_context(self._interrupts.held())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # All processes stop after the same step, whichever was told: they wait for each other in the save.
        self._is_stopping = trainer.strategy.reduce_boolean_decision(self._interrupts.is_waiting, all=False)
        steps = cast(Training, pl_module).completed_steps
        is_due = steps % self.every_steps == 0 or (self.keep_every_steps and steps % self.keep_every_steps == 0)
        if is_due or self._is_stopping:
            self._save(trainer, steps)

    # The next of these hooks finds the values of the step in the logs.
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._publish(trainer)
        self._stop_if_told()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._publish(trainer)
        self._stop_if_told()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._is_stopping = trainer.strategy.reduce_boolean_decision(self._interrupts.is_waiting, all=False)
        self._stop_if_told()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = cast(Training, pl_module).completed_steps
        if self.best_by is None or steps == 0:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        if self.best_by not in values:
            raise UserError(f"trainer.best_by: validation has no {self.best_by}, it has {', '.join(sorted(values))}")
        value = values[self.best_by]
        if value < (float("inf") if self.best is None else self.best):  # never where it is NaN
            self.best = value
            self._save(trainer, steps)
            self._publish(trainer)
            self._copy(trainer, BEST_NAME)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, cast(Training, pl_module).completed_steps)
        self._publish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        steps = cast(Training, pl_module).completed_steps
        if isinstance(exception, KeyboardInterrupt | SystemExit) and steps > 0:
            self._save(trainer, steps)
            self._publish(trainer)
            logger.info("saved step %d, continue with --resume last", self.saved_at)
        elif trainer.is_global_zero:
            self._partial.unlink(missing_ok=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._entered.close()

    def _stop_if_told(self) -> None:
        if self._is_stopping:
            self._interrupts.pass_on()
            raise KeyboardInterrupt("another process was told to stop")

    def _save(self, trainer: Trainer, steps: int) -> None:
        """Write the state to the disk, under a name that nobody reads."""
        if steps == self.saved_at:
            return
        trainer.save_checkpoint(self._partial, weights_only=False)  # the optimisers' state too
        self.saved_at = steps
        self._is_pending = True

    def _publish(self, trainer: Trainer) -> None:
        """Let what was written take the checkpoint's name, the logs being on the disk."""
        if not self._is_pending:
            return
        self._is_pending = False
        for log in trainer.loggers:
            log.save()
        if trainer.is_global_zero:
            os.replace(self._partial, self.folder / LAST_NAME)
            sync(self.folder)
        if self.keep_every_steps and self.saved_at % self.keep_every_steps == 0:
            self._copy(trainer, f"step_{self.saved_at:07d}.ckpt")

    def _copy(self, trainer: Trainer, name: str) -> None:
        """Keep the newest checkpoint under another name: the same file, where the disk can have two names for one."""
        if not trainer.is_global_zero:
            return
        with replacing(self.folder / name) as partial:
            try:
                os.link(self.folder / LAST_NAME, partial)
            except OSError:
                shutil.copyfile(self.folder / LAST_NAME, partial)


def remove_partial(folder: Path) -> None:
    """Remove what a process that was killed left unfinished in a run folder and in its export."""
    for left in (*folder.glob(f".*{PARTIAL}"), *folder.glob(f"export/.*{PARTIAL}")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def resume_path(folder: Path, resume: str | None) -> Path | None:
    """Return the checkpoint that `resume` names: "last" is the run folder's newest, None is none.

    Raises:
        FileNotFoundError: there is none.
        UserError: the run folder already holds a training and `resume` is None, or a folder is named.
    """
    last = folder / LAST_NAME
    if resume is None:
        if last.exists():
            raise UserError(f"{folder} already holds a training: continue it with --resume last, or choose --run")
        return None
    path = last if resume == "last" else Path(resume)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint to resume from at {path}")
    if (path / LAST_NAME).exists():
        raise UserError(f"{path} is the folder of a run: continue it with --run {path} --resume last")
    if path.is_dir() or path.suffix == ".safetensors":
        raise UserError(
            f"{path} is an exported model or another folder, --resume needs a training's checkpoint (RUN/{LAST_NAME}); "
            "--init_from MODEL starts a new training from a model's weights"
        )
    return path


def check_checkpoint(path: Path, module: Training) -> None:
    """Refuse a checkpoint that the training cannot go on from.

    Raises:
        UserError: it is no checkpoint, damaged, of another training or other sizes, or not finite.
    """
    checkpoint = _read(path)
    name = checkpoint["training"]
    if name != module.name:
        raise UserError(f"{path} is a checkpoint of train.{name}: resume it with python -m train.{name}")
    if checkpoint["format"] > FORMAT:
        raise UserError(f"{path} was written by a newer version of this program, which is needed to resume it")
    if checkpoint["optimiser"] != module.optimiser.name:
        raise UserError(
            f"{path} was trained with optimiser.name {checkpoint['optimiser']}, this run has {module.optimiser.name}: "
            "give the same to go on"
        )
    expected, found = module.state_dict(), checkpoint["state_dict"]
    different = [k for k in sorted({*expected, *found}) if k not in expected or k not in found]
    different += [k for k in expected if k in found and expected[k].shape != found[k].shape]
    if different:
        raise UserError(
            f"{path} is of a model of another configuration ({_listed(different)}): give the configuration it was "
            "started with"
        )
    if bad := non_finite(checkpoint):
        raise UserError(
            f"{path} holds values that are not finite ({_listed(bad)}): resume an earlier checkpoint, or start anew"
        )


def non_finite(checkpoint: dict[str, Any]) -> list[str]:
    """Return names of the weights, averages and optimiser states that are not finite."""
    parts = (checkpoint["state_dict"], checkpoint.get("optimizer_states", []))
    return [name for part in parts for name, value in _tensors("", part) if not _is_finite(value)]


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries and lists with the path to each."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _tensors(f"{name}.{key}".lstrip("."), inner)


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing that is in it is run."""
    with path.open("rb") as file:
        head = file.read(20)
    if head.startswith(b"version https://git-"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # noqa: BLE001 - pickle raises anything, and a cut archive an OSError
        raise UserError(
            f"{path} is not a checkpoint of a training, or it is damaged: --resume needs RUN/{LAST_NAME}"
        ) from None
    if not isinstance(checkpoint, dict) or not {"training", "state_dict", "optimiser"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of this program's trainings: --resume needs RUN/{LAST_NAME}")
    return checkpoint


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
