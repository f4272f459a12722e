"""The Lightning module of `train.vae`: both stages, their losses and optimisers, what is validated and exported.

Joint: encoder and decoder learn to reconstruct under a small KL term. Then the encoder is frozen and the decoder
trains on. From a set step on, adversarial and feature-matching terms are added. The EMA of the autoencoder is what is
validated and exported.

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.1 and appendix.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from data.latent_statistics import latent_moments, raw_statistics, warn_of_drift
from models.discriminator import Discriminator, DiscriminatorConfig
from models.errors import UserError, check_bounds
from models.vae import VAE, Posterior
from train.losses import (
    SpectralLoss,
    SpectralLossConfig,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    waveform_loss,
)
from train.optimisation import (
    OptimiserConfig,
    clip_or_drop,
    ema_of,
    finite_or_nan,
    learning_rate,
    make_optimiser,
    set_learning_rate,
)
from train.trainer import step_generator, step_generators
from train.training import Training

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
    kl_weight: float = 1e-4
    """Weight of the divergence from N(0, 1), summed over channels."""
    adversarial_weight: float = 0.1
    """Weight of the generator's hinge loss."""
    feature_matching_weight: float = 5.0
    """Weight of the feature matching loss."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if name.endswith("_weight"):
                check_bounds(f"loss.{name}", weight, 0, 1e6)


@dataclass(frozen=True, kw_only=True)
class VAEStagesConfig:
    """When what begins, in optimiser steps."""

    joint_steps: int = 460_000
    """Steps of the first stage; then the encoder is frozen."""
    adversarial_start: int = 10_000
    """Step at which the adversarial terms begin."""

    def __post_init__(self) -> None:
        check_bounds("stages.joint_steps", self.joint_steps, 0, 10**12)
        check_bounds("stages.adversarial_start", self.adversarial_start, 0, 10**12)


class VAETraining(Training):
    """Lightning module of both stages; see the module's header."""

    name = "vae"

    def __init__(
        self,
        *,
        vae: VAE,
        discriminator: DiscriminatorConfig,
        loss: VAELossConfig,
        stages: VAEStagesConfig,
        optimiser: OptimiserConfig,
        num_steps: int,
        seed: int,
        part: Part = "all",
    ) -> None:
        """Train a VAE.

        Args:
            num_steps: optimiser steps of the whole run.
            seed: of the draws from the posterior and of the decoder's noise.
            part: what is trained. But for "all" the VAE comes trained: its encoder and its latents' statistics stay as
                they are.
        """
        super().__init__(optimiser, num_steps, seed)
        self.automatic_optimization = False
        self.vae = vae.add_weight_norm()
        self.discriminator = Discriminator(discriminator)
        self.spectral_loss = SpectralLoss(loss.spectral, vae.config.sample_rate, vae.config.audio_channels)
        self.vae_ema = ema_of(self.vae, optimiser.ema_decay)
        self.loss = loss
        self.stages = stages
        self.part = part
        self._found: list[str] = []
        """What was not finite in the present step."""

    def compile_networks(self) -> None:
        """Compile the networks and the spectral loss in place, each on its own."""
        for part in (self.vae.encoder, self.vae.decoder, self.discriminator, self.spectral_loss):
            part.compile()

    def averages(self) -> list[tuple[nn.Module, AveragedModel]]:
        return [(self.vae, self.vae_ema)]

    @property
    def encoder_frozen(self) -> bool:
        """Whether the second stage has begun."""
        return self.part != "all" or self.completed_steps >= self.stages.joint_steps

    @property
    def adversarial(self) -> bool:
        """Whether the adversarial terms are on."""
        return self.completed_steps >= self.stages.adversarial_start

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [make_optimiser(self.optimiser, network) for network in (self.vae, self.discriminator)]

    def on_train_start(self) -> None:
        if self.part != "all" and self.completed_steps == 0 and self.trainer.is_global_zero:
            self._compare_latents()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        rate = self.rate()
        for optimiser in cast(list[LightningOptimizer], self.optimizers()):
            set_learning_rate(optimiser, rate)
        self.optimise(batch)
        self.end_step(rate, self._found)
        self._found.clear()

    def rate(self) -> float:
        """Learning rate of the present step."""
        return learning_rate(self.optimiser, self.completed_steps, self.num_steps)

    def optimise(self, batch: dict[str, Any]) -> None:
        """Update the networks by one batch."""
        optimisers = cast(list[LightningOptimizer], self.optimizers())
        audio = self.vae.from_stereo(batch["audio"])
        reconstruction, posterior, latents = self._reconstruct(audio)
        with torch.autocast(self.device.type, enabled=False):
            if self.adversarial:
                self._discriminator_step(optimisers[1], audio, reconstruction.detach().float())
            self._generator_step(optimisers[0], audio, reconstruction.float(), posterior, latents)

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
        super().on_save_checkpoint(checkpoint)
        checkpoint["part"] = self.part

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["part"] != self.part:
            raise UserError(
                f"the checkpoint was trained with part {checkpoint['part']!r} of the autoencoder, this run trains "
                f"{self.part!r}: give the same --init_from and --train to go on"
            )
        super().on_load_checkpoint(checkpoint)

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

    def posterior(self, audio: Tensor) -> Posterior:
        """Posterior of a training batch, not normalised."""
        return self.vae.raw_posterior(audio)

    def _encode(self, audio: Tensor) -> tuple[Posterior, list[torch.Generator]]:
        """Posterior, and the generators of this step's draws from it."""
        with torch.set_grad_enabled(not self.encoder_frozen):
            posterior = self.posterior(audio)
        return posterior, step_generators(self.seed, self.completed_steps, len(audio), self.global_rank)

    def _reconstruct(self, audio: Tensor) -> tuple[Tensor, Posterior, Tensor]:
        """Reconstruction, posterior and the latents drawn from it."""
        posterior, generators = self._encode(audio)
        latents = posterior.sample(generators)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # for the decoder's noise
            torch.manual_seed(generators[0].initial_seed())
            return self.vae.decoder(latents)[..., : audio.shape[-1]], posterior, latents

    def _reconstruction_terms(
        self, vae: VAE, audio: Tensor, reconstruction: Tensor, posterior: Posterior, latents: Tensor
    ) -> dict[str, Tensor]:
        is_training = vae is self.vae
        windows = self.spectral_loss.drawn_windows(step_generator(self.seed, self.completed_steps))
        return self.spectral_loss(reconstruction, audio, windows if is_training else None) | {
            "waveform": waveform_loss(reconstruction, audio),
            "kl": Posterior(posterior.mean.float(), posterior.std.float()).kl(),
        }

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
        weights = self._weights()
        total = sum(weights[name] * value for name, value in terms.items())
        self.log_dict({f"weight/{name}": weights[name] for name in terms}, batch_size=1)
        if self._optimise(optimiser, cast(Tensor, total), self.vae, "generator", terms):
            self.update_averages()
        self.discriminator.requires_grad_(True)

    def _discriminator_step(self, optimiser: LightningOptimizer, real: Tensor, fake: Tensor) -> None:
        loss = discriminator_loss(self.discriminator(real)[0], self.discriminator(fake)[0])
        self._optimise(optimiser, loss, self.discriminator, "discriminator", {"adv/discriminator": loss})

    def _weights(self) -> dict[str, float]:
        return {
            "stft/convergence": self.loss.stft_weight,
            "stft/log_magnitude": self.loss.stft_weight,
            "stft/mel": self.loss.mel_weight,
            "waveform": self.loss.waveform_weight,
            "kl": 0.0 if self.encoder_frozen else self.loss.kl_weight,
            "adv/generator": self.loss.adversarial_weight,
            "adv/feature_matching": self.loss.feature_matching_weight,
        }

    def _optimise(
        self, optimiser: LightningOptimizer, loss: Tensor, network: nn.Module, name: str, terms: dict[str, Tensor]
    ) -> bool:
        """Take one clipped step, and return True; or none, if a loss or gradient is not finite."""
        optimiser.zero_grad()
        self.manual_backward(finite_or_nan(loss))
        norm = clip_or_drop(network.parameters(), self.optimiser.gradient_clip)
        optimiser.step()
        is_good = bool(norm.isfinite())
        if not is_good:
            self._found.append(f"{name}: " + ", ".join(f"{key} {value.item():.3g}" for key, value in terms.items()))
        logs = {f"train/{key}": value.detach() for key, value in terms.items()} | {f"train/{name}_gradient": norm}
        self.log_dict(logs, batch_size=1)
        if name == "generator":
            self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=1)
        return is_good
