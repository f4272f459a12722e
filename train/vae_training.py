"""The Lightning module of `train.vae`: both stages, their losses and optimisers, what is validated and exported.

Joint: encoder and decoder learn to reconstruct under a small KL term. Then the encoder is frozen and the decoder
trains on. From a set step on, adversarial and feature-matching terms are added. The EMA of the autoencoder is what is
validated and exported.

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.1 and appendix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from data.latent_statistics import latent_moments, raw_statistics, warn_of_drift
from models.discriminator import Discriminator, DiscriminatorConfig
from models.errors import UserError
from models.vae import VAE, Posterior
from train.bad_steps import BadSteps
from train.ema import ema_of
from train.losses import (
    SpectralLoss,
    SpectralLossConfig,
    ToneLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    waveform_loss,
)
from train.trainer import step_generators

NUM_DEMOS = 4
Part = Literal["decoder", "all", "tones"]


@dataclass(frozen=True, kw_only=True)
class VAELossConfig:
    spectral: SpectralLossConfig = field(default_factory=SpectralLossConfig)
    """The spectral distances."""
    stft_weight: float = 1.0
    """Weight of spectral convergence and log-magnitude."""
    mel_weight: float = 0.0
    """Weight of the log-mel term, if the spectral loss has one."""
    waveform_weight: float = 0.0
    """Weight of the squared error relative to the target's energy."""
    tone_weight: float = 0.0
    """Weight of the distance between tones, for a model with `band_levels`."""
    kl_weight: float = 1e-4
    """Weight of the divergence from N(0, 1), summed over channels."""
    adversarial_weight: float = 0.1
    """Weight of the generator's hinge loss."""
    feature_matching_weight: float = 5.0
    """Weight of the feature matching loss."""


@dataclass(frozen=True, kw_only=True)
class VAEOptimiserConfig:
    learning_rate: float = 1e-4
    """Peak learning rate of both networks."""
    betas: tuple[float, float] = (0.8, 0.99)
    """AdamW's momentum terms."""
    decay_per_step: float = 0.999996
    """Factor on the learning rate each step."""
    warmup_steps: int = 1_000
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float = 1.0
    """Largest gradient norm of either network."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights."""
    joint_steps: int = 460_000
    """Steps of the first stage; then the encoder is frozen."""
    adversarial_start: int = 10_000
    """Step at which the adversarial terms begin."""
    tone_steps: int = 8
    """Optimiser steps on each batch of `--train tones`."""


class VAETraining(LightningModule):
    """Lightning module of both stages; see the module's header."""

    def __init__(
        self,
        vae: VAE,
        discriminator: DiscriminatorConfig,
        loss: VAELossConfig,
        optimiser: VAEOptimiserConfig,
        seed: int,
        part: Part = "all",
    ) -> None:
        """Train a VAE.

        Args:
            part: what is trained. But for "all" the VAE comes trained: its encoder and its latents' statistics stay as
                they are.
        """
        super().__init__()
        self.automatic_optimization = False
        self.vae = vae.add_weight_norm()
        self.discriminator = Discriminator(discriminator)
        self.spectral_loss = SpectralLoss(loss.spectral, vae.config.sample_rate, vae.config.audio_channels)
        if loss.tone_weight and not vae.config.band_levels:
            raise UserError(
                "loss.tone_weight is for autoencoders with model.band_levels; this one has no tones: set it to 0"
            )
        if part == "tones":
            if not loss.tone_weight:
                raise UserError("--train tones needs a loss.tone_weight above 0")
            vae.requires_grad_(False)
            vae.tone_branch.requires_grad_(True)
        self.tone_loss = ToneLoss(vae.hop_length, vae.config.sample_rate) if loss.tone_weight else None
        self.vae_ema = ema_of(self.vae, optimiser.ema_decay)
        self.loss = loss
        self.optimiser = optimiser
        self.seed = seed
        self.part = part
        self.completed_steps = 0
        self.bad_steps = BadSteps()

    @property
    def encoder_frozen(self) -> bool:
        """Whether the second stage has begun."""
        return self.part != "all" or self.completed_steps >= self.optimiser.joint_steps

    @property
    def adversarial(self) -> bool:
        """Whether the adversarial terms are on."""
        return self.completed_steps >= self.optimiser.adversarial_start

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings: dict[str, Any] = {"lr": self.optimiser.learning_rate, "betas": self.optimiser.betas, "fused": True}
        return [
            torch.optim.AdamW(self.vae.parameters(), **settings),
            torch.optim.AdamW(self.discriminator.parameters(), **settings),
        ]

    def on_train_start(self) -> None:
        if self.part != "all" and self.completed_steps == 0 and self.trainer.is_global_zero:
            self._compare_latents()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimisers = cast(list[LightningOptimizer], self.optimizers())
        self._set_learning_rate(optimisers)
        audio = self.vae.from_stereo(batch["audio"])
        if self.part == "tones":
            self._tone_step(optimisers[0], audio)
        else:
            reconstruction, posterior, latents = self._reconstruct(audio)
            with torch.autocast(self.device.type, enabled=False):
                if self.adversarial:
                    self._discriminator_step(optimisers[1], audio, reconstruction.detach().float())
                self._generator_step(optimisers[0], audio, reconstruction.float(), posterior, latents)
        self.log("train/bad_steps", float(self.bad_steps.total), batch_size=1)
        self.bad_steps.end_step(self.completed_steps)
        self.completed_steps += 1

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        vae = cast(VAE, self.vae_ema.module)
        audio = vae.from_stereo(batch["audio"])
        posterior = vae.raw_posterior(audio)
        reconstruction = vae.decoder(posterior.mean)[..., : audio.shape[-1]].float()
        with torch.autocast(self.device.type, enabled=False):
            terms = self._reconstruction_terms(vae, audio, reconstruction, posterior, posterior.mean)
        signal_to_noise = -10 * waveform_loss(reconstruction, audio).log10()
        logs = {f"val/{name}": value for name, value in (terms | {"snr_db": signal_to_noise}).items()}
        self.log_dict(logs, batch_size=len(audio), sync_dist=True)

    def demo(self) -> dict[str, Tensor]:
        """Pairs of validation audio and its reconstruction."""
        if not self.trainer.is_global_zero:
            return {}
        audio = next(self._validation_audio())[:NUM_DEMOS]
        with torch.no_grad():
            vae = cast(VAE, self.vae_ema.module)
            reconstruction = vae.decoder(vae.raw_posterior(audio).mean)[..., : audio.shape[-1]]
        pairs = zip(audio.expand(-1, 2, -1), reconstruction.expand(-1, 2, -1), strict=True)
        return {f"{i}": torch.cat(pair, dim=-1) for i, pair in enumerate(pairs)}

    def export(self, folder: Path) -> None:
        """Write the EMA autoencoder with its latent statistics, weight-norm folded."""
        if not self.trainer.is_global_zero:
            return
        vae = cast(VAE, self.vae_ema.module).folded()
        if self.part == "all":
            mean, std = raw_statistics(vae, *latent_moments(vae, self._validation_audio()))
            vae.set_latent_statistics(mean, std)
        vae.save(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["completed_steps"] = self.completed_steps
        checkpoint["part"] = self.part

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        part = checkpoint.get("part", "all")
        if part != self.part:
            raise UserError(
                f"the checkpoint was trained with part {part!r} of the autoencoder, this run trains {self.part!r}: "
                "give the same --init_from and --train to go on"
            )
        self.completed_steps = checkpoint["completed_steps"]

    def _validation_audio(self) -> Iterator[Tensor]:
        """Batches of validation audio (batch, audio_channels, samples)."""
        batches = self.trainer.datamodule.val_dataloader()  # pyright: ignore[reportAttributeAccessIssue]
        return (self.vae.from_stereo(batch["audio"].to(self.device)) for batch in batches)

    def _compare_latents(self) -> None:
        """Warn when this data's latents are not distributed as those that the statistics were measured on."""
        warn_of_drift(
            *latent_moments(self.vae, self._validation_audio()),
            "the decoder trains all the same; for a new U-Net measure anew: python -m data.latent_statistics",
        )

    def _encode(self, audio: Tensor) -> tuple[Posterior, list[torch.Generator]]:
        """Posterior, and the generators of this step's draws from it."""
        with torch.set_grad_enabled(not self.encoder_frozen):
            posterior = self.vae.raw_posterior(audio)
        return posterior, step_generators(self.seed, self.completed_steps, len(audio), self.global_rank)

    def _reconstruct(self, audio: Tensor) -> tuple[Tensor, Posterior, Tensor]:
        """Reconstruction, posterior and the latents drawn from it."""
        posterior, generators = self._encode(audio)
        latents = posterior.sample(generators)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # for the decoder's noise
            torch.manual_seed(generators[0].initial_seed())
            return self.vae.decoder(latents)[..., : audio.shape[-1]], posterior, latents

    def _tone_step(self, optimiser: LightningOptimizer, audio: Tensor) -> None:
        """Several steps of the tones' branch on one batch, with other latents each: encoding is what takes the time."""
        assert self.tone_loss is not None
        posterior, generators = self._encode(audio)
        for _ in range(self.optimiser.tone_steps):
            terms = {"tones": self.tone_loss(self.vae.tone_amplitudes(posterior.sample(generators)), audio)}
            self._optimise(optimiser, self._weight("tones") * terms["tones"], self.vae, "generator", terms)
            self.vae_ema.update_parameters(self.vae)

    def _reconstruction_terms(
        self, vae: VAE, audio: Tensor, reconstruction: Tensor, posterior: Posterior, latents: Tensor
    ) -> dict[str, Tensor]:
        terms = self.spectral_loss(reconstruction, audio) | {
            "waveform": waveform_loss(reconstruction, audio),
            "kl": Posterior(posterior.mean.float(), posterior.std.float()).kl(),
        }
        if self.tone_loss is not None:
            terms["tones"] = self.tone_loss(vae.tone_amplitudes(latents), audio)
        return terms

    def _generator_step(
        self,
        optimiser: LightningOptimizer,
        audio: Tensor,
        reconstruction: Tensor,
        posterior: Posterior,
        latents: Tensor,
    ) -> None:
        terms = self._reconstruction_terms(self.vae, audio, reconstruction, posterior, latents)
        self.discriminator.requires_grad_(False)
        if self.adversarial:
            fake, fake_features = self.discriminator(reconstruction)
            with torch.no_grad():
                _, real_features = self.discriminator(audio)
            terms |= {
                "adv/generator": generator_loss(fake),
                "adv/feature_matching": feature_matching_loss(real_features, fake_features),
            }
        weights = {name: self._weight(name) for name in terms}
        total = sum(weights[name] * value for name, value in terms.items())
        self.log_dict({f"weight/{name}": weight for name, weight in weights.items()}, batch_size=1)
        self._optimise(optimiser, cast(Tensor, total), self.vae, "generator", terms)
        self.discriminator.requires_grad_(True)
        self.vae_ema.update_parameters(self.vae)

    def _discriminator_step(self, optimiser: LightningOptimizer, real: Tensor, fake: Tensor) -> None:
        loss = discriminator_loss(self.discriminator(real)[0], self.discriminator(fake)[0])
        self._optimise(optimiser, loss, self.discriminator, "discriminator", {"adv/discriminator": loss})

    def _weight(self, name: str) -> float:
        weights = {
            "stft/convergence": self.loss.stft_weight,
            "stft/log_magnitude": self.loss.stft_weight,
            "stft/mel": self.loss.mel_weight,
            "waveform": self.loss.waveform_weight,
            "tones": self.loss.tone_weight,
            "kl": 0.0 if self.encoder_frozen else self.loss.kl_weight,
            "adv/generator": self.loss.adversarial_weight,
            "adv/feature_matching": self.loss.feature_matching_weight,
        }
        return weights[name]

    def _optimise(
        self, optimiser: LightningOptimizer, loss: Tensor, network: nn.Module, name: str, terms: dict[str, Tensor]
    ) -> None:
        """One clipped step; a step whose loss or gradient is not finite is skipped and counted."""
        optimiser.zero_grad()
        # A loss that is not finite makes every gradient so, on all ranks once they are averaged: all of them skip.
        self.manual_backward(loss * torch.where(loss.detach().isfinite(), 1.0, math.nan))
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.optimiser.gradient_clip)
        if torch.isfinite(norm):
            optimiser.step()
        else:
            self.bad_steps.add(name, terms)
        logs = {f"train/{key}": value.detach() for key, value in terms.items()} | {f"train/{name}_gradient": norm}
        self.log_dict(logs, batch_size=1)
        if name == "generator":
            self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=1)

    def _set_learning_rate(self, optimisers: list[LightningOptimizer]) -> None:
        step = self.completed_steps
        warmup = min(1.0, (step + 1) / max(1, self.optimiser.warmup_steps))
        rate = self.optimiser.learning_rate * warmup * self.optimiser.decay_per_step**step
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        self.log("train/learning_rate", rate, batch_size=1)
