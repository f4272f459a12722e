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
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from data.cli import run
from data.datamodule import AudioDataModule, DataConfig
from models.clap import MAX_LOGIT_SCALE, Clap, ClapConfig
from models.errors import check_bounds
from train.callbacks import Export
from train.contrastive import caption_ids, contrastive_loss, recalls
from train.optimisation import OptimiserConfig, ema_of
from train.tokenizer import prepare_tokenizer
from train.trainer import TrainerConfig, fit, seed_run, step_generator
from train.training import Training

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs/demo/clap.yaml"
UNDECAYED = ("norm", "bias", "tokens", "positions", "log_scale", "relative_position")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer, which is trained before CLAP."""

    num_captions: int = 20_000
    """Captions that it is trained on; how many entries it has is `model.text.vocab_size`."""

    def __post_init__(self) -> None:
        check_bounds("tokenizer.num_captions", self.num_captions, 1, 10**8)


class ClapTraining(Training):
    """Lightning module: contrastive training step, retrieval as validation."""

    name = "clap"

    def __init__(
        self, model: ClapConfig, optimiser: OptimiserConfig, tokenizer: Tokenizer, num_steps: int, seed: int
    ) -> None:
        super().__init__(optimiser, num_steps, seed)
        self.clap = Clap(model, tokenizer)
        self.clap_ema = ema_of(self.clap, optimiser.ema_decay)
        self._embedded: list[tuple[Tensor, Tensor, Tensor]] = []

    def averages(self) -> list[tuple[nn.Module, AveragedModel]]:
        return [(self.clap, self.clap_ema)]

    def decays(self, name: str) -> bool:
        return not any(word in name for word in UNDECAYED)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout and crops: the same after a resume
            torch.manual_seed(step_generator(self.seed, self.num_batches, 1 + self.global_rank).initial_seed())
            audio, text = self._embed(self.clap, batch, random_crop=True)
        self.num_batches += 1
        ids = caption_ids(batch["prompt"], self.device)
        scale = self.clap.logit_scale
        with torch.autocast(self.device.type, enabled=False):
            loss = contrastive_loss(audio, text, ids, scale)
        self.log("train/logit_scale", scale.detach(), batch_size=len(audio))
        return self.finite_loss(loss)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clap.head.log_scale.data.clamp_(0, math.log(MAX_LOGIT_SCALE))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        audio, text = self._embed(cast(Clap, self.clap_ema.module), batch, random_crop=False)
        ids = caption_ids(batch["prompt"], self.device)
        self._embedded.append((audio, text, ids))
        loss = contrastive_loss(audio, text, ids, self.clap.logit_scale)
        self.log("val/loss", loss, batch_size=len(audio), sync_dist=True)

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
            cast(Clap, self.clap_ema.module).save(folder)

    def _embed(self, clap: Clap, batch: dict[str, Any], *, random_crop: bool) -> tuple[Tensor, Tensor]:
        audio, num_samples = batch["audio"], batch["num_samples"]
        excess = audio.shape[-1] - clap.config.audio.clip_samples
        if random_crop and excess > 0:
            start = int(torch.randint(excess + 1, ()))
            audio, num_samples = audio[..., start : audio.shape[-1] - excess + start], num_samples - start
        return clap.embed_audio(audio, num_samples), clap.embed_text(batch["prompt"])


def main(
    *,
    model: ClapConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    tokenizer: TokenizerConfig = TokenizerConfig(),
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
        tokenizer: what it is trained on.
        run: folder for logs, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and dropout.
        resume: "last", or a checkpoint's path.
    """
    data.check_audio_only()
    seed_run(seed)
    audio = AudioDataModule(data, seed)
    trained = prepare_tokenizer(audio, model.text.vocab_size, tokenizer.num_captions, run / "tokenizer", resume)
    module = ClapTraining(model, optimiser, trained, trainer.max_steps, seed)
    fit(module, audio, trainer, run, resume, [Export(run / "export")])
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, DEFAULT_CONFIG)
