"""Train CLAP from scratch: `python -m train.clap [--config configs/.../clap.yaml]`.

Sound and caption of the same clip are pulled together, those of different clips pushed apart, with a learned
temperature over the batch of all processes. A tokenizer is trained on the captions first. The export holds the text
encoder that the diffusion model reads, and the rest of CLAP for evaluation.

Source: Wu et al. 2022 (2211.06687); Evans et al. 2024 (2402.04825), section 3.2.
"""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from tokenizers import Tokenizer
from torch import Tensor

from data.cli import run
from data.datamodule import AudioDataModule, DataConfig
from models.clap import MAX_LOGIT_SCALE, Clap, ClapConfig
from train.callbacks import Export
from train.contrastive import caption_ids, contrastive_loss, recalls
from train.tokenizer import prepare_tokenizer
from train.trainer import TrainerConfig, fit, seed_run, step_generator

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs/demo/clap.yaml"
UNDECAYED = ("norm", "bias", "tokens", "positions", "log_scale", "relative_position")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClapOptimiserConfig:
    """AdamW with warm-up and cosine decay to zero over trainer.max_steps."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's momentum terms."""
    weight_decay: float = 0.05
    """AdamW's weight decay, on matrices alone."""
    warmup_steps: int = 2_000
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    num_captions: int = 20_000
    """Captions the tokenizer is trained on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))


class ClapTraining(LightningModule):
    """Lightning module: contrastive training step, retrieval as validation."""

    def __init__(
        self, model: ClapConfig, optimiser: ClapOptimiserConfig, tokenizer: Tokenizer, num_steps: int, seed: int
    ) -> None:
        super().__init__()
        self.clap = Clap(model, tokenizer)
        self.optimiser = optimiser
        self.num_steps = num_steps
        self.seed = seed
        self.num_batches = 0
        self._embedded: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def completed_steps(self) -> int:
        """Optimiser steps so far."""
        return self.global_step

    def configure_optimizers(self) -> Any:
        decayed, undecayed = [], []
        for name, parameter in self.clap.named_parameters():
            (undecayed if any(word in name for word in UNDECAYED) else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.optimiser.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.optimiser.learning_rate, betas=self.optimiser.betas, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._learning_rate_factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0 at the last step."""
        if step < self.optimiser.warmup_steps:
            return (step + 1) / self.optimiser.warmup_steps
        progress = (step - self.optimiser.warmup_steps) / max(1, self.num_steps - self.optimiser.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout and crops: the same after a resume
            torch.manual_seed(step_generator(self.seed, self.num_batches, 1 + self.global_rank).initial_seed())
            audio, text = self._embed(batch, random_crop=True)
        self.num_batches += 1
        ids = caption_ids(batch["prompt"], self.device)
        scale = self.clap.logit_scale
        with torch.autocast(self.device.type, enabled=False):
            loss = contrastive_loss(audio, text, ids, scale)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(audio))
        self.log_dict({"train/loss": loss.detach(), "train/logit_scale": scale.detach()}, batch_size=len(audio))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.clap.parameters(), self.optimiser.gradient_clip)
        self.log("train/gradient", norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clap.head.log_scale.data.clamp_(0, math.log(MAX_LOGIT_SCALE))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        audio, text = self._embed(batch, random_crop=False)
        self._embedded.append((audio, text, caption_ids(batch["prompt"], self.device)))

    def on_validation_epoch_end(self) -> None:
        parts = (torch.cat(part) for part in zip(*self._embedded, strict=True))
        # Every rank has as many validation items, so the gathered tensors have one shape.
        audio, text, ids = (self.all_gather(part).reshape(-1, *part.shape[1:]) for part in parts)  # pyright: ignore
        self._embedded.clear()
        logs = {f"val/text_to_audio_{name}": value for name, value in recalls(text, audio, ids).items()}
        logs |= {f"val/audio_to_text_{name}": value for name, value in recalls(audio, text, ids).items()}
        logs["val/num_items"] = float(len(ids))
        self.log_dict(logs, sync_dist=True)
        self.log("R@10", logs["val/text_to_audio_R@10"], prog_bar=True, logger=False, sync_dist=True)

    def demo(self) -> dict[str, Tensor]:
        """No sound to hear."""
        return {}

    def export(self, folder: Path) -> None:
        """Write the text encoder and the rest of CLAP."""
        if self.trainer.is_global_zero:
            self.clap.save(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["num_batches"] = self.num_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.num_batches = checkpoint["num_batches"]

    def _embed(self, batch: dict[str, Any], *, random_crop: bool) -> tuple[Tensor, Tensor]:
        audio, num_samples = batch["audio"], batch["num_samples"]
        excess = audio.shape[-1] - self.clap.config.audio.clip_samples
        if random_crop and excess > 0:
            start = int(torch.randint(excess + 1, ()))
            audio, num_samples = audio[..., start : audio.shape[-1] - excess + start], num_samples - start
        return self.clap.embed_audio(audio, num_samples), self.clap.embed_text(batch["prompt"])


def main(
    *,
    model: ClapConfig,
    optimiser: ClapOptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    run: Path = Path("runs/clap"),
    seed: int = 0,
    resume: str | None = None,
) -> None:
    """Train CLAP, on the procedural corpus or on the captioned audio in `--data.folder`.

    Args:
        model: the two towers' sizes.
        optimiser: learning rate and schedule.
        data: what is trained on.
        trainer: length, devices, precision.
        run: folder for logs, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and dropout.
        resume: "last", or a checkpoint's path.
    """
    seed_run(seed)
    audio = AudioDataModule(data, seed)
    tokenizer = prepare_tokenizer(audio, model.text.vocab_size, optimiser.num_captions, run / "tokenizer", resume)
    module = ClapTraining(model, optimiser, tokenizer, trainer.max_steps, seed)
    fit(module, audio, trainer, run, resume, [Export(run / "export")])
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, DEFAULT_CONFIG)
