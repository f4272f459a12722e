"""The Lightning module of `train.diffusion`: the noisy batch, the loss, what is validated, rendered and exported.

The U-Net predicts v of noisy latents whose noise level differs from frame to frame (`train.noise_levels`), so one
network serves ordinary sampling and the endless queue. VAE and text encoder come trained and stay as they are. The EMA
of U-Net and conditioner is what is validated and exported.

    latents (batch, channels, frames); t (batch, frames); v = alpha * noise - sigma * latents

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.4; Salimans & Ho 2022 (v-prediction).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from data.latent_statistics import LatentMoments, warn_of_drift
from infer.generate import generate, window_seconds
from infer.guidance import GuidanceConfig
from infer.samplers import draw_noise
from models.checkpoint import load_weights, without_weights
from models.diffusion import add_noise, velocity
from models.errors import check_bounds
from models.queue import QueueConfig
from models.text_to_audio import Conditioner, Conditioning, TextToAudio
from models.unet import UNet
from models.vae import Posterior
from train.gap import level_losses, prompt_share
from train.noise_levels import NoiseLevelConfig, crop, sample_noise_levels, splice
from train.optimisation import OptimiserConfig, ema_of
from train.sharding import shard, whole_weights
from train.trainer import step_generator, step_generators
from train.training import Training

VALIDATION_SEED = 1_234_567
KNOWN_SHARE = 0.9
"""Share of the training samples whose pieces are at most as long as the exported model claims to know."""


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """Which part of what is known of a clip the network is told; shares of the clips."""

    dropout: float = 0.1
    """Share whose text and timing become the learned null sequence (classifier-free guidance)."""
    timing_dropout: float = 0.25
    """Share of crops from the inside of a piece whose timing becomes unknown, text kept: an endless stream's case."""
    padding_share: float = 0.0
    """Share of the clips whose length is told that show the silence behind their end, in the loss too: how timing ends
    a sound. From the others it is hidden. 1 is the paper's."""

    def __post_init__(self) -> None:
        for name in ("dropout", "timing_dropout", "padding_share"):
            check_bounds(f"conditioning.{name}", getattr(self, name), 0, 1)


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
        check_bounds("demo.num_steps", self.num_steps, 1, 10_000)
        check_bounds("demo.guidance_scale", self.guidance_scale, -100, 100)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    mixture: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    """Noise levels of the training; the queues among them are `model.queues`."""
    finish: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    """Noise levels of the last steps, `finish_share` of all."""
    finish_share: float = 0.0
    """Share of the steps, the last ones, that is spent on `finish` alone."""

    def __post_init__(self) -> None:
        check_bounds("noise.finish_share", self.finish_share, 0, 1)

    def check_queues(self, queues: Sequence[QueueConfig]) -> None:
        """Refuse mixtures that weigh another number of queues than the model has."""
        for mixture in (self.mixture, self.finish):
            mixture.check_queues(queues)


class DiffusionTraining(Training):
    """Lightning module; see the module's header."""

    name = "diffusion"
    num_samples: Tensor
    """Training samples so far by the length of their piece: of 0, (0, 1], (1, 2], ... seconds."""

    def __init__(
        self,
        model: TextToAudio,
        noise: NoiseConfig,
        conditioning: ConditioningConfig,
        optimiser: OptimiserConfig,
        demo: DemoConfig,
        num_steps: int,
        seed: int,
        *,
        window_frames: int | None = None,
        num_tokens: int | None = None,
        compares_latents: bool = False,
    ) -> None:
        """Train a model.

        Args:
            window_frames: longest clip that the exported model claims to make; None: the model's own.
            num_tokens: what the conditioning of a training batch is padded to, in tokens; None: its own longest.
            compares_latents: warn at the start when the data's latents are not distributed as the model's.
        """
        super().__init__(optimiser, num_steps, seed)
        noise.check_queues(model.config.queues)
        self.model = model
        self.model.vae.requires_grad_(False)
        self.model.text_encoder.requires_grad_(False)
        self.unet_ema = ema_of(model.unet, optimiser.ema_decay)
        self.conditioner_ema = ema_of(model.conditioner, optimiser.ema_decay)
        num_rows = model.conditioner.config.timing.max_seconds + 1
        self.register_buffer("num_samples", torch.zeros(num_rows, dtype=torch.long))
        self.noise = noise
        self.conditioning = conditioning
        self.demo_config = demo
        self.window_frames = window_frames or model.config.window_frames
        self.num_tokens = num_tokens
        self.compares_latents = compares_latents
        self.is_sharded = False

    def averages(self) -> list[tuple[nn.Module, AveragedModel]]:
        return [(self.model.unet, self.unet_ema), (self.model.conditioner, self.conditioner_ema)]

    def buffers_of_a_step(self) -> list[Tensor]:
        return [self.num_samples, *super().buffers_of_a_step()]

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

    def on_fit_start(self) -> None:
        if self.compares_latents and self.completed_steps == 0:
            self._compare_latents()

    @torch.no_grad()
    def _compare_latents(self) -> None:
        """Warn when this data's latents are not distributed as those that the U-Net was trained on."""
        moments = LatentMoments(self.model.vae.config.latent_channels)
        for index, batch in enumerate(self.trainer.datamodule.val_dataloader()):  # pyright: ignore
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            latents, frame_mask = self._latents(batch, step_generators(VALIDATION_SEED, index, len(batch["prompt"])))
            real = latents.transpose(1, 2)[frame_mask].T[None]  # (1, channels, frames)
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
        finishing = self.num_steps - self.completed_steps <= self.noise.finish_share * self.num_steps
        levels = sample_noise_levels(
            latents.shape[-1],
            shared,
            generators,
            self.noise.finish if finishing else self.noise.mixture,
            self.model.config.queues,
            rank=self.global_rank,
            num_ranks=self.trainer.world_size,
        )
        latents, frame_mask, start = crop(latents, frame_mask, levels.window, generators)
        latents, frame_mask = splice(latents, frame_mask, levels.cut.to(latents.device))
        noise = draw_noise(generators, latents.shape[1], latents.shape[2], latents.device)
        conditioning, shows_padding = self._draw_conditioning(batch, generators, start, levels.window)
        frame_mask = (frame_mask | shows_padding[:, None]) & levels.present.to(latents.device)
        counted = levels.loss_mask.to(latents.device) & frame_mask
        # The mean over the frames of all ranks, whatever share of them this rank has.
        num_counted = cast(Tensor, self.trainer.strategy.reduce(counted.sum().float(), reduce_op="mean")).clamp_min(1)
        t = levels.t.to(latents)
        loss = latents.new_zeros(())
        for rows, frames in self._groups(levels.window, latents.shape[-1]):
            x, x_noise, x_t = (whole[rows, ..., :frames] for whole in (latents, noise, t))
            given = conditioning[rows]
            prediction = self.model.unet(
                add_noise(x, x_noise, x_t), x_t, given.context, given.context_mask, frame_mask[rows, :frames]
            )
            with torch.autocast(self.device.type, enabled=False):
                error = (prediction.float() - velocity(x, x_noise, x_t)).square().mean(dim=1)  # (rows, frames)
                loss = loss + (error * counted[rows, :frames]).sum() / num_counted
        return self.finite_loss(loss)

    def _groups(self, window: Tensor, longest: int) -> list[tuple[Tensor, int]]:
        """Samples (their indices) that go through the network together, and the frames they need, of the longest.

        One group for each length of the windows; but one for all, which costs more and gives the same, where every rank
        must make the same calls (sharded weights) or calls of one shape (compiled ones).
        """
        if self.is_sharded or self.num_tokens is not None:
            return [(torch.arange(len(window)), longest)]
        return [((window == frames).nonzero()[:, 0], frames) for frames in window.unique().tolist()]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generators = step_generators(VALIDATION_SEED, batch_idx, len(batch["prompt"]), self.global_rank)
        latents, frame_mask = self._latents(batch, generators)
        noise = draw_noise(generators, latents.shape[1], latents.shape[2], latents.device)
        conditioner, unet = cast(Conditioner, self.conditioner_ema.module), cast(UNet, self.unet_ema.module)
        conditionings = self._condition(batch, conditioner), conditioner.null(len(latents))
        losses: dict[str, Tensor] = {}
        for index, queue in enumerate(self.model.config.queues):
            # What this queue shows, which clips of one level are compared with.
            x, x_noise, real = (whole[..., : queue.window_frames] for whole in (latents, noise, frame_mask))
            prompted, unprompted = (
                partial(unet, context=given.context, context_mask=given.context_mask, frame_mask=real)
                for given in conditionings
            )
            of_queue = level_losses(prompted, x, x_noise, real.cpu(), queue)
            if index == 0:
                losses = of_queue | {"prompt": prompt_share(prompted, unprompted, x, x_noise, real.cpu())}
            else:
                losses[f"gap_{index}"] = of_queue["gap"]
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
        known = max(known_seconds(self.num_samples), self.model.config.known_seconds or 0)
        config = dataclasses.replace(self.model.config, known_seconds=known or None, window_frames=self.window_frames)
        with without_weights():
            model = TextToAudio(config, self.model.vae, self.model.text_encoder)
        model.unet, model.conditioner = unet, conditioner
        return model

    @torch.no_grad()
    def _latents(self, batch: dict[str, Any], generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Latents of a batch and which of their frames are real; audio is encoded here."""
        if "latents" in batch:
            latents, frame_mask = batch["latents"], batch["frame_mask"]
        else:
            latents = self.model.vae.posterior(batch["audio"]).sample(generators)
            frames = torch.arange(latents.shape[-1], device=latents.device) * self.model.vae.hop_length
            frame_mask = frames < batch["num_samples"][:, None]
        return latents.float(), frame_mask

    def _condition(self, batch: dict[str, Any], conditioner: Conditioner) -> Conditioning:
        """Text and timing of a batch."""
        return conditioner(*self.model.text_encoder.encode(batch["prompt"]), *self._seconds(batch))

    def _draw_conditioning(
        self, batch: dict[str, Any], generators: Sequence[torch.Generator], start: Tensor, window: Tensor
    ) -> tuple[Conditioning, Tensor]:
        """Text and timing of windows of a batch, some of it dropped, and which of them show what follows a clip's end.

        Args:
            generators: one for each sample.
            start, window: (batch,) frames of the crops before each window, and in it.
        """
        frame_seconds = self.model.vae.hop_length / self.model.vae.config.sample_rate
        begins, total = self._seconds(batch)
        begins = begins + start * frame_seconds
        self.num_samples.index_add_(0, total.nan_to_num(0.0).ceil().long(), (~total.isnan()).long())
        draws = torch.stack([torch.rand(3, generator=generator) for generator in generators], dim=1).to(total.device)
        is_inside = (begins >= 1) & (begins + window.to(begins) * frame_seconds <= total - 1)
        is_unknown = is_inside & (draws[0] < self.conditioning.timing_dropout)
        begins, total = (torch.where(is_unknown, torch.nan, seconds) for seconds in (begins, total))
        is_dropped = draws[1] < self.conditioning.dropout
        shows_padding = (draws[2] < self.conditioning.padding_share) & ~is_dropped & ~total.isnan()
        conditioner = self.model.conditioner
        conditioning = conditioner(*self.model.text_encoder.encode(batch["prompt"]), begins, total)
        conditioning = conditioner.drop(conditioning, is_dropped)
        return conditioning if self.num_tokens is None else conditioning.pad(self.num_tokens), shows_padding

    def _seconds(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Start and total of a batch's clips, each (batch,); what the tables do not hold is unknown, NaN."""
        longest = self.model.conditioner.timing.config.max_seconds
        start, total = (
            torch.where(batch[key] > longest, torch.nan, batch[key]) for key in ("seconds_start", "seconds_total")
        )
        return start, total


def known_seconds(num_samples: Tensor) -> int:
    """Return the length (s) that `KNOWN_SHARE` of the samples do not pass, given their number for every second."""
    return int((num_samples.cumsum(0) < KNOWN_SHARE * num_samples.sum()).sum())
