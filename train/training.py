"""What the Lightning modules of all trainings have in common: counters, averages, and steps that may be left out."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from train.optimisation import (
    BadSteps,
    OptimiserConfig,
    clip_or_drop,
    finite_or_nan,
    learning_rate,
    make_optimiser,
    set_learning_rate,
)

FORMAT = 1
"""Of the checkpoints that a training goes on from."""


class Training(LightningModule):
    """A training of some networks by one optimiser, and of their averages.

    A subclass computes the loss (`training_step` ends with `self.finite_loss(loss)`) and names what is trained
    (`averages`). One with several losses a step optimises by hand and overrides what concerns the optimiser.

    Args:
        num_steps: optimiser steps of the whole run.
        seed: of everything that is drawn in training.
    """

    name = ""
    """The command's, as in `train.NAME`."""

    def __init__(self, optimiser: OptimiserConfig, num_steps: int, seed: int) -> None:
        super().__init__()
        self.optimiser = optimiser
        self.num_steps = num_steps
        self.seed = seed
        self.completed_steps = 0
        """Optimiser steps so far, those that were left out included."""
        self.num_batches = 0
        """Batches so far of one process; several make a step if gradients are accumulated."""
        self.bad_steps = BadSteps()
        self._losses: list[Tensor] = []
        self._norm = torch.zeros(())
        self._buffers_before: list[Tensor] = []

    def averages(self) -> list[tuple[nn.Module, AveragedModel]]:
        """Return every network that is trained, and the average of its weights."""
        raise NotImplementedError

    def buffers_of_a_step(self) -> list[Tensor]:
        """Return what a batch changes besides weights (running means, counts): a step that is left out restores it."""
        return [buffer for network, _ in self.averages() for buffer in network.buffers()]

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter of this name."""
        return True

    def configure_optimizers(self) -> Any:
        return make_optimiser(self.optimiser, *(network for network, _ in self.averages()), decays=self.decays)

    def finite_loss(self, loss: Tensor) -> Tensor:
        """Log the loss of a batch and return what `training_step` must return."""
        self._losses.append(loss.detach())
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=1)
        self.log("train/loss", loss.detach(), batch_size=1)
        return finite_or_nan(loss)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._buffers_before = [buffer.clone() for buffer in self.buffers_of_a_step()]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        self._norm = clip_or_drop(parameters, self.optimiser.gradient_clip)
        self.log("train/gradient", self._norm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take a step, unless its gradients were dropped, and bring the averages up to it."""
        rate = learning_rate(self.optimiser, self.completed_steps, self.num_steps)
        set_learning_rate(optimizer, rate)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        is_good = bool(self._norm.isfinite())
        if is_good:
            self.update_averages()
        else:
            for buffer, before in zip(self.buffers_of_a_step(), self._buffers_before, strict=True):
                buffer.copy_(before)
        found = [] if is_good else [f"gradient {self._norm.item():.3g}", *_described(self._losses)]
        self._losses.clear()
        self.end_step(rate, found)

    def end_step(self, rate: float, found: list[str]) -> None:
        """Count a step taken at a learning rate; `found`: what was not finite in it."""
        self.completed_steps += 1
        logs = {"train/learning_rate": rate, "train/bad_steps": float(self.bad_steps.total + bool(found))}
        self.log_dict(logs, batch_size=1)
        self.bad_steps.count(self.completed_steps - 1, found)

    def update_averages(self) -> None:
        """Let the averages follow a step."""
        for network, average in self.averages():
            average.update_parameters(network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"training": self.name, "format": FORMAT, "optimiser": self.optimiser.name}
        checkpoint["completed_steps"] = self.completed_steps
        checkpoint["num_batches"] = self.num_batches
        checkpoint["bad_steps"] = self.bad_steps.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.completed_steps = checkpoint["completed_steps"]
        self.num_batches = checkpoint["num_batches"]
        self.bad_steps.load_state_dict(checkpoint["bad_steps"])


def _described(losses: list[Tensor]) -> list[str]:
    """This process's losses of a step's batches in words."""
    return ["loss " + ", ".join(f"{loss.item():.3g}" for loss in losses)] if losses else []
