"""Lightning callbacks: stop and progress by steps, demos, exports.

A module trained with these counts its own optimiser steps in `completed_steps`, because Lightning's `global_step`
counts the steps of every optimiser.
"""

import logging
from pathlib import Path
from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from data.audio_writer import write_audio
from infer.pictures import draw_spectrograms

logger = logging.getLogger(__name__)


class TrainingModule(Protocol):
    """What the callbacks ask of a training module."""

    completed_steps: int

    def demo(self) -> dict[str, Tensor]:
        """Return named stereo audio (2, samples) made with the EMA weights; called on every process."""
        ...

    def export(self, folder: Path) -> None:
        """Write the checkpoint for use; called on every process, of which the first writes."""
        ...


def _steps(module: LightningModule) -> int:
    return cast(TrainingModule, module).completed_steps


class StopAfterSteps(Callback):
    """End the training when the module has completed `max_steps` optimiser steps."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _steps(pl_module) >= self.max_steps:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _steps(pl_module) >= self.max_steps:
            trainer.should_stop = True


class StepProgressBar(ProgressBar):
    """One bar over optimiser steps, with time left and the metrics logged for it."""

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.bar: tqdm | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar = tqdm(total=self.max_steps, initial=_steps(pl_module), unit="step", mininterval=1.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        self.bar.update(_steps(pl_module) - self.bar.n)
        if self.bar.n % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            metrics = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
            self.bar.set_postfix(metrics, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Export(Callback):
    """Write the checkpoint for use (config.json + safetensors) at every validation and at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._export(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _steps(pl_module) > 0:
            cast(TrainingModule, pl_module).export(self.folder)


class Demos(Callback):
    """Write the module's demo audio and its spectrograms to TensorBoard and to files at every validation."""

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self.folder = folder
        self.sample_rate = sample_rate

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = _steps(pl_module)
        if steps == 0:
            return
        sounds = cast(TrainingModule, pl_module).demo()
        if not trainer.is_global_zero:
            return
        folder = self.folder / f"step_{steps:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, audio in sounds.items():
            audio = audio.detach().float().cpu().clamp(-1, 1)
            channels = {f"channel {index}": channel for index, channel in enumerate(audio, start=1)}
            figure = draw_spectrograms(name, channels)
            write_audio(folder / f"{name}.wav", audio, self.sample_rate)
            figure.savefig(folder / f"{name}.png")
            for log in trainer.loggers:
                if isinstance(log, TensorBoardLogger):
                    log.experiment.add_audio(name, audio.mean(dim=0, keepdim=True), steps, self.sample_rate)
                    log.experiment.add_figure(name, figure, steps)
