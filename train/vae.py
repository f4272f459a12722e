"""Train the autoencoder: `python -m train.vae [--config configs/.../vae.yaml]`.

Two stages in one run. Joint: encoder and decoder learn to reconstruct under a small KL term. Then the encoder is
frozen and the decoder trains on. From a set step on, adversarial and feature-matching terms are added. The EMA of the
autoencoder is what is validated and exported.

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.1 and appendix.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from data.cli import run
from data.datamodule import AudioDataModule, DataConfig
from models.discriminator import Discriminator, DiscriminatorConfig
from models.vae import VAE, Posterior, VAEConfig
from train.callbacks import Demos, Export
from train.ema import ema_of
from train.losses import (
    SpectralLoss,
    SpectralLossConfig,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    waveform_loss,
)
from train.trainer import TrainerConfig, fit, seed_run, step_generator

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs/demo/vae.yaml"
MAX_BAD_STEPS = 20
NUM_STATISTICS_BATCHES = 64
NUM_DEMOS = 4


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


class VAETraining(LightningModule):
    """Lightning module of both stages; see the module's header."""

    def __init__(
        self,
        model: VAEConfig,
        discriminator: DiscriminatorConfig,
        loss: VAELossConfig,
        optimiser: VAEOptimiserConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.vae = VAE(model).add_weight_norm()
        self.discriminator = Discriminator(discriminator)
        self.spectral_loss = SpectralLoss(loss.spectral, model.sample_rate, model.audio_channels)
        self.vae_ema = ema_of(self.vae, optimiser.ema_decay)
        self.loss = loss
        self.optimiser = optimiser
        self.seed = seed
        self.completed_steps = 0
        self.num_bad_steps = 0

    @property
    def encoder_frozen(self) -> bool:
        """Whether the second stage has begun."""
        return self.completed_steps >= self.optimiser.joint_steps

    @property
    def adversarial(self) -> bool:
        """Whether the adversarial terms are on."""
        return self.completed_steps >= self.optimiser.adversarial_start

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings: dict[str, Any] = {"lr": self.optimiser.learning_rate, "betas": self.optimiser.betas}
        return [
            torch.optim.AdamW(self.vae.parameters(), **settings),
            torch.optim.AdamW(self.discriminator.parameters(), **settings),
        ]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimisers = cast(list[LightningOptimizer], self.optimizers())
        self._set_learning_rate(optimisers)
        audio = batch["audio"]
        reconstruction, posterior = self._reconstruct(audio)
        with torch.autocast(self.device.type, enabled=False):
            if self.adversarial:
                self._discriminator_step(optimisers[1], audio, reconstruction.detach().float())
            self._generator_step(optimisers[0], audio, reconstruction.float(), posterior)
        self.completed_steps += 1

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        audio = batch["audio"]
        vae = cast(VAE, self.vae_ema.module)
        posterior = vae.raw_posterior(audio)
        reconstruction = vae.decoder(posterior.mean)[..., : audio.shape[-1]].float()
        with torch.autocast(self.device.type, enabled=False):
            terms = self._reconstruction_terms(audio, reconstruction, posterior)
        signal_to_noise = -10 * waveform_loss(reconstruction, audio).log10()
        logs = {f"val/{name}": value for name, value in (terms | {"snr_db": signal_to_noise}).items()}
        self.log_dict(logs, batch_size=len(audio), sync_dist=True)

    def demo(self) -> dict[str, Tensor]:
        """Pairs of validation audio and its reconstruction."""
        batch = next(iter(self.trainer.datamodule.val_dataloader()))  # pyright: ignore[reportAttributeAccessIssue]
        audio = batch["audio"][:NUM_DEMOS].to(self.device)
        with torch.no_grad():
            vae = cast(VAE, self.vae_ema.module)
            reconstruction = vae.decoder(vae.raw_posterior(audio).mean)[..., : audio.shape[-1]]
        return {f"{i}": torch.cat((a, r), dim=-1) for i, (a, r) in enumerate(zip(audio, reconstruction, strict=True))}

    def export(self, folder: Path) -> None:
        """Write the EMA autoencoder with its latent statistics, weight-norm folded."""
        vae = cast(VAE, self.vae_ema.module).folded()
        batches = self.trainer.datamodule.val_dataloader()  # pyright: ignore[reportAttributeAccessIssue]
        mean, std = latent_statistics(vae, (batch["audio"].to(self.device) for batch in batches))
        vae.set_latent_statistics(mean, std)
        vae.save(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["completed_steps"] = self.completed_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.completed_steps = checkpoint["completed_steps"]

    def _reconstruct(self, audio: Tensor) -> tuple[Tensor, Posterior]:
        with torch.set_grad_enabled(not self.encoder_frozen):
            posterior = self.vae.raw_posterior(audio)
        latents = posterior.sample(step_generator(self.seed, self.global_rank, self.completed_steps, self.device))
        return self.vae.decoder(latents)[..., : audio.shape[-1]], posterior

    def _reconstruction_terms(self, audio: Tensor, reconstruction: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        return self.spectral_loss(reconstruction, audio) | {
            "waveform": waveform_loss(reconstruction, audio),
            "kl": posterior.kl(),
        }

    def _generator_step(
        self, optimiser: LightningOptimizer, audio: Tensor, reconstruction: Tensor, posterior: Posterior
    ) -> None:
        terms = self._reconstruction_terms(audio, reconstruction, posterior)
        self.discriminator.requires_grad_(False)
        if self.adversarial:
            fake, fake_features = self.discriminator(reconstruction)
            with torch.no_grad():
                _, real_features = self.discriminator(audio)
            terms |= {
                "adv/generator": generator_loss(fake),
                "adv/feature_matching": feature_matching_loss(real_features, fake_features),
            }
        total = sum(self._weight(name) * value for name, value in terms.items())
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
            "kl": 0.0 if self.encoder_frozen else self.loss.kl_weight,
            "adv/generator": self.loss.adversarial_weight,
            "adv/feature_matching": self.loss.feature_matching_weight,
        }
        return weights[name]

    def _optimise(
        self, optimiser: LightningOptimizer, loss: Tensor, network: nn.Module, name: str, terms: dict[str, Tensor]
    ) -> None:
        """One clipped step; a step whose gradient is not finite is skipped and counted."""
        optimiser.zero_grad()
        self.manual_backward(loss)
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.optimiser.gradient_clip)
        if torch.isfinite(norm):
            optimiser.step()
            self.num_bad_steps = 0
        else:
            self._count_bad_step(name, terms)
        logs = {f"train/{key}": value.detach() for key, value in terms.items()} | {f"train/{name}_gradient": norm}
        self.log_dict(logs, batch_size=1)
        if name == "generator":
            self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=1)

    def _count_bad_step(self, name: str, terms: dict[str, Tensor]) -> None:
        self.num_bad_steps += 1
        values = ", ".join(f"{key} {value.item():.3g}" for key, value in terms.items())
        logger.warning("step %d: %s gradient is not finite, step skipped (%s)", self.completed_steps, name, values)
        if self.num_bad_steps >= MAX_BAD_STEPS:
            raise ValueError(
                f"{MAX_BAD_STEPS} steps in a row without a finite gradient, at step {self.completed_steps} ({values}): "
                "lower optimiser.learning_rate to a tenth, or look for damaged audio; the last checkpoint is whole"
            )

    def _set_learning_rate(self, optimisers: list[LightningOptimizer]) -> None:
        step = self.completed_steps
        warmup = min(1.0, (step + 1) / max(1, self.optimiser.warmup_steps))
        rate = self.optimiser.learning_rate * warmup * self.optimiser.decay_per_step**step
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate


@torch.no_grad()
def latent_statistics(vae: VAE, batches: Any, max_batches: int = NUM_STATISTICS_BATCHES) -> tuple[Tensor, Tensor]:
    """Mean and std per channel of raw posterior samples over batches of audio, each (latent_channels,), float32."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for index, audio in enumerate(batches):
        if index >= max_batches:
            break
        posterior = vae.raw_posterior(audio)
        mean, variance = posterior.mean.double().cpu(), posterior.std.double().cpu().square()
        total = total + mean.sum(dim=(0, 2))
        squares = squares + (mean.square() + variance).sum(dim=(0, 2))
        count += mean.shape[0] * mean.shape[2]
    if count == 0:
        raise ValueError("no audio to measure the latents' statistics on")
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


def main(
    *,
    model: VAEConfig,
    discriminator: DiscriminatorConfig,
    loss: VAELossConfig,
    optimiser: VAEOptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    run: Path = Path("runs/vae"),
    seed: int = 0,
    resume: str | None = None,
    compile: bool = False,
) -> None:
    """Train the autoencoder, on the procedural corpus or on the audio in `--data.folder`.

    Args:
        model: the autoencoder's sizes.
        discriminator: the discriminators' sizes.
        loss: terms and weights.
        optimiser: learning rates and stages.
        data: what is trained on.
        trainer: length, devices, precision.
        run: folder for logs, demos, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and noise.
        resume: "last", or a checkpoint's path.
        compile: compile the networks (slow start, faster steps).
    """
    seed_run(seed)
    module = VAETraining(model, discriminator, loss, optimiser, seed)
    if compile:
        module.vae.encoder.compile()
        module.vae.decoder.compile()
        module.discriminator.compile()
        module.spectral_loss.compile()
    callbacks = [Demos(run / "demos", model.sample_rate), Export(run / "export")]
    fit(module, AudioDataModule(data, seed), trainer, run, resume, callbacks)
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, DEFAULT_CONFIG)
