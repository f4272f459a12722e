"""The Lightning module of `train.diffusion`: the noisy batch, the loss, what is validated, rendered and exported.

The U-Net predicts v of noisy latents whose noise level differs from frame to frame (`train.noise_levels`), so one
network serves ordinary sampling and the endless queue. VAE and text encoder come trained and stay as they are. The EMA
of U-Net and conditioner is what is validated and exported.

    latents (batch, channels, frames); t (batch, frames); v = alpha * noise - sigma * latents

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.4; Salimans & Ho 2022 (v-prediction).
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from data.latent_statistics import LatentMoments, warn_of_drift
from infer.generate import generate, window_seconds
from infer.guidance import GuidanceConfig
from infer.samplers import draw_noise
from models.checkpoint import load_weights
from models.diffusion import add_noise, velocity
from models.meta import without_weights
from models.text_to_audio import Conditioner, Conditioning, TextToAudio
from models.unet import UNet
from models.vae import Posterior
from train.ema import ema_of
from train.gap import level_losses, prompt_share
from train.muon import Muon
from train.noise_levels import NoiseLevelConfig, sample_noise_levels, splice
from train.sharding import shard, whole_norm, whole_weights
from train.trainer import step_generator, step_generators

VALIDATION_SEED = 1_234_567


@dataclass(frozen=True, kw_only=True)
class DiffusionOptimiserConfig:
    name: Literal["adamw", "muon"] = "adamw"
    """The paper's AdamW, or Muon for matrices and kernels (`train.muon`): fewer, somewhat dearer steps."""
    learning_rate: float = 4e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's momentum terms."""
    weight_decay: float = 1e-3
    """Weight decay."""
    warmup_steps: int = 1_000
    """Steps over which the learning rate rises from 0."""
    final_share: float = 1.0
    """Learning rate at trainer.max_steps relative to the peak, reached on half a cosine; 1 = constant."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights."""
    condition_dropout: float = 0.1
    """Share of clips whose text and timing become the learned null sequence (classifier-free guidance)."""
    timing_dropout: float = 0.25
    """Share of crops from the inside of a piece whose timing becomes unknown, text kept: an endless stream's case."""
    padding_in_loss: bool = False
    """Whether to train on the silence behind a clip's end too; otherwise it is hidden from the network."""
    finish_share: float = 0.0
    """Share of the steps, the last ones, that is spent on `noise.finish` alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.name not in ("adamw", "muon"):
            raise ValueError(f"optimiser.name must be adamw or muon, got {self.name!r}")
        for name in ("condition_dropout", "timing_dropout", "final_share", "finish_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimiser.{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    prompts: tuple[str, ...] = ("heavy rain with distant thunder", "a drum loop at 120 bpm")
    """What is generated at every validation, always from the same noise."""
    num_steps: int = 16
    """Sampling steps."""
    guidance_scale: float = 4.0
    """Guidance scale."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    mixture: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    """Noise levels of the training, and the queue that validation measures."""
    finish: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    """Noise levels of the last steps, `optimiser.finish_share` of all."""


class DiffusionTraining(LightningModule):
    """Lightning module; see the module's header."""

    longest_seconds: Tensor

    def __init__(
        self,
        model: TextToAudio,
        noise: NoiseConfig,
        optimiser: DiffusionOptimiserConfig,
        demo: DemoConfig,
        num_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.model.vae.requires_grad_(False)
        self.model.text_encoder.requires_grad_(False)
        self.unet_ema = ema_of(model.unet, optimiser.ema_decay)
        self.conditioner_ema = ema_of(model.conditioner, optimiser.ema_decay)
        self.register_buffer("longest_seconds", torch.tensor(model.config.longest_seconds or 0.0))
        self.noise = noise
        self.optimiser = optimiser
        self.demo_config = demo
        self.num_steps = num_steps
        self.seed = seed
        self.num_batches = 0
        self.is_sharded = False
        self.is_tuning = False
        self.num_tokens: int | None = None
        """Tokens that a training batch's conditioning is padded to; None: its own longest."""

    @property
    def completed_steps(self) -> int:
        """Optimiser steps so far."""
        return self.global_step

    def configure_model(self) -> None:
        """Under strategy fsdp: divide what is trained, and its average, among the devices."""
        mesh = self.device_mesh
        if mesh is None or self.is_sharded:
            return
        for unet in (self.model.unet, self.unet_ema.module):
            shard(unet, mesh)
        for conditioner in (self.model.conditioner, self.conditioner_ema.module):
            shard(conditioner, mesh, methods=("null", "drop"))
        self.is_sharded = True

    def configure_optimizers(self) -> Any:
        config, networks = self.optimiser, (self.model.unet, self.model.conditioner)
        settings: dict[str, Any] = {
            "lr": config.learning_rate,
            "betas": config.betas,
            "weight_decay": config.weight_decay,
        }
        if config.name == "muon":
            optimiser = Muon(*networks, **settings)
        else:
            trained = [p for network in networks for p in network.parameters()]
            optimiser = torch.optim.AdamW(trained, fused=True, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._learning_rate_factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        if self.is_tuning and self.completed_steps == 0:
            self._compare_latents()

    @torch.no_grad()
    def _compare_latents(self) -> None:
        """Warn when this data's latents are not distributed as those that the U-Net was trained on."""
        moments = LatentMoments(self.model.vae.config.latent_channels)
        for index, batch in enumerate(self.trainer.datamodule.val_dataloader()):  # pyright: ignore
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            latents, frame_mask = self._latents(batch, step_generators(VALIDATION_SEED, index, len(batch["prompt"])))
            real = latents.transpose(1, 2)[slice(None) if frame_mask is None else frame_mask]
            real = real.reshape(-1, latents.shape[1]).T[None]  # (1, channels, frames)
            moments.push(Posterior(real, torch.zeros_like(real)))
        if moments.num_frames:
            warn_of_drift(
                *moments.mean_std(),
                "that is so for a narrow set of sounds; for a broad one, train the autoencoder on it first",
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generators = step_generators(self.seed, self.num_batches, len(batch["prompt"]), self.global_rank)
        shared = step_generator(self.seed, self.num_batches)
        self.num_batches += 1
        latents, frame_mask = self._latents(batch, generators)
        finishing = self.num_steps - self.completed_steps <= self.optimiser.finish_share * self.num_steps
        levels = sample_noise_levels(
            latents.shape[-1],
            shared,
            generators,
            self.noise.finish if finishing else self.noise.mixture,
            rank=self.global_rank,
            num_ranks=self.trainer.world_size,
        )
        latents, frame_mask = splice(latents, frame_mask, levels.cut.to(latents.device))
        noise = draw_noise(generators, latents.shape[1], latents.shape[2], latents.device)
        conditioning = self._condition(batch, self.model.conditioner, generators, latents.shape[-1])
        t = levels.t.to(latents)
        shown = levels.present.to(latents.device)
        frame_mask = shown if frame_mask is None else frame_mask & shown
        prediction = self.model.unet(
            add_noise(latents, noise, t), t, conditioning.context, conditioning.context_mask, frame_mask
        )
        counted = levels.loss_mask.to(latents.device) & frame_mask
        with torch.autocast(self.device.type, enabled=False):
            error = (prediction.float() - velocity(latents, noise, t)).square().mean(dim=1)  # (batch, frames)
            # The mean over the frames of all ranks, whatever share of them this rank has.
            num_counted = self.trainer.strategy.reduce(counted.sum().float(), reduce_op="mean")
            loss = (error * counted).sum() / cast(Tensor, num_counted).clamp_min(1)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(latents))
        self.log("train/loss", loss.detach(), batch_size=len(latents))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.optimiser.gradient_clip)
        self.log("train/gradient", whole_norm(norm))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.unet_ema.update_parameters(self.model.unet)
        self.conditioner_ema.update_parameters(self.model.conditioner)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generators = step_generators(VALIDATION_SEED, batch_idx, len(batch["prompt"]), self.global_rank)
        latents, frame_mask = self._latents(batch, generators)
        noise = draw_noise(generators, latents.shape[1], latents.shape[2], latents.device)
        conditioner, unet = cast(Conditioner, self.conditioner_ema.module), cast(UNet, self.unet_ema.module)
        prompted, unprompted = (
            partial(unet, context=given.context, context_mask=given.context_mask, frame_mask=frame_mask)
            for given in (self._condition(batch, conditioner), conditioner.null(len(latents)))
        )
        real = torch.ones(latents.shape[::2], dtype=torch.bool) if frame_mask is None else frame_mask.cpu()
        losses = level_losses(prompted, latents, noise, real, self.noise.mixture)
        losses["prompt"] = prompt_share(prompted, unprompted, latents, noise, real)
        self.log_dict({f"val/{k}": v for k, v in losses.items()}, batch_size=len(latents), sync_dist=True)
        self.log("val_loss", losses["loss"], prog_bar=True, logger=False, batch_size=len(latents), sync_dist=True)

    def demo(self) -> dict[str, Tensor]:
        """Clips of the demo prompts at fixed noise."""
        config, model = self.demo_config, self._averaged()
        if model is None or not config.prompts:
            return {}
        audio = generate(
            model,
            list(config.prompts),
            seconds=window_seconds(model),
            seeds=list(range(len(config.prompts))),
            guidance=GuidanceConfig(scale=config.guidance_scale),
            num_steps=config.num_steps,
        )
        names = ["".join(c if c.isalnum() else "_" for c in prompt)[:60] for prompt in config.prompts]
        return dict(zip(names, audio, strict=True))

    def export(self, folder: Path) -> None:
        """Write the whole model with the averaged weights."""
        model = self._averaged()
        if model is not None:
            model.save(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["num_batches"] = self.num_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.num_batches = checkpoint["num_batches"]

    def _averaged(self) -> TextToAudio | None:
        """The model with averaged weights; VAE and text encoder are shared. None where this process has no part in it.

        Sharded weights are gathered, on the first process alone.
        """
        unet, conditioner = cast(UNet, self.unet_ema.module), cast(Conditioner, self.conditioner_ema.module)
        if self.is_sharded:
            states = whole_weights(unet), whole_weights(conditioner)
            if self.trainer.is_global_zero:
                with without_weights():
                    unet, conditioner = UNet(unet.config), Conditioner(conditioner.config)
                for network, state in zip((unet, conditioner), states, strict=True):
                    load_weights(network, state, "the averaged weights")
                    network.to(self.device).eval().requires_grad_(False)
        if not self.trainer.is_global_zero:
            return None
        model = copy.copy(self.model)
        model._modules = dict(self.model._modules)
        model.unet, model.conditioner = unet, conditioner
        longest = float(self.longest_seconds) or None
        model.config = dataclasses.replace(model.config, longest_seconds=longest)
        return model

    @torch.no_grad()
    def _latents(self, batch: dict[str, Any], generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor | None]:
        """Latents of a batch and which of their frames are real; audio is encoded here."""
        if "latents" in batch:
            latents, frame_mask = batch["latents"], batch["frame_mask"]
        else:
            latents = self.model.vae.posterior(batch["audio"]).sample(generators)
            frames = torch.arange(latents.shape[-1], device=latents.device) * self.model.vae.hop_length
            frame_mask = frames < batch["num_samples"][:, None]
        return latents.float(), None if self.optimiser.padding_in_loss else frame_mask

    def _condition(
        self,
        batch: dict[str, Any],
        conditioner: Conditioner,
        generators: Sequence[torch.Generator] = (),
        num_frames: int = 0,
    ) -> Conditioning:
        """Text and timing of a batch; with generators (training) some of it is dropped."""
        text_embeddings, text_mask = self.model.text_encoder.encode(batch["prompt"])
        longest = conditioner.timing.config.max_seconds
        start, total = (  # what the tables do not hold is unknown
            torch.where(batch[key] > longest, torch.nan, batch[key]) for key in ("seconds_start", "seconds_total")
        )
        if not generators:
            return conditioner(text_embeddings, text_mask, start, total)
        draws = torch.stack([torch.rand(2, generator=generator) for generator in generators], dim=1).to(self.device)
        self.longest_seconds = torch.maximum(self.longest_seconds, total.nan_to_num(0.0).amax())
        window = num_frames * self.model.vae.hop_length / self.model.vae.config.sample_rate
        inside = (start >= 1) & (start + window <= total - 1)
        unknown = inside & (draws[0] < self.optimiser.timing_dropout)
        start, total = (torch.where(unknown, torch.nan, seconds) for seconds in (start, total))
        conditioning = conditioner(text_embeddings, text_mask, start, total)
        conditioning = conditioner.drop(conditioning, draws[1] < self.optimiser.condition_dropout)
        return conditioning if self.num_tokens is None else conditioning.pad(self.num_tokens)

    def _learning_rate_factor(self, step: int) -> float:
        config = self.optimiser
        warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
        progress = min(1.0, step / self.num_steps)
        return warmup * (config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress)))
