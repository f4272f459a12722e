"""What training needs for autoencoders of kind "spectral" alone: a stage for the tones, a start from components.

Stages: first the tone path learns by itself, from measured and from drawn tones, without any sound; then encoder and
decoder learn to reconstruct, from principal components of the training set's log spectra on, while the tone path goes
on learning from its teacher; what comes then is `VAETraining`'s: the encoder frozen, a discriminator for the decoder.

The first layers have thousands of correlated inputs, and a start that already works: their learning rates are small.
"""

from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from models.errors import UserError, check_bounds
from models.vae import VAE, Posterior
from models.vae_spectral import SpectralDecoder, SpectralEncoder, start_from_components
from train.band_losses import BandTraining, ToneLossConfig
from train.optimisation import learning_rate
from train.tones import drawn_tones, tone_losses
from train.trainer import step_generator
from train.vae_training import VAETraining

COMPONENT_CROPS = 120
"""Crops of the training set that the principal components are taken from."""
EDGE_FRAMES = 4
"""Frames at both ends of a crop in which tones are not measured well, since the windows are not full."""
DRAWN_FRAMES = 4
"""Frames of a drawn set of tones."""
ENCODER_SCALE, FIRST_LAYER_SCALE = 0.2, 0.01
"""Learning rates of the encoder's layers and of its first one, relative to the decoder's."""


@dataclass(frozen=True, kw_only=True)
class TonePathConfig:
    """How the tones of kind "spectral" are trained."""

    steps: int = 0
    """Training steps of the first stage, in which the tones alone are trained."""
    repeats: int = 8
    """Optimiser steps on the tones of each batch in that stage, with newly drawn ones each."""
    num_drawn: int = 128
    """Drawn sets of tones beside each batch."""
    learning_rate: float = 4e-3
    """Peak learning rate of that stage, at the end of which it is 0."""
    level_weight: float = 10.0
    """Weight of the distance between levels of tones."""
    pitch_weight: float = 3.0
    """Weight of the distance between pitches of tones."""
    kl_weight: float = 4e-4
    """Weight of the divergence of the tones' channels from N(0, 1), in the place of `loss.kl_weight`."""

    def __post_init__(self) -> None:
        check_bounds("tone_path.steps", self.steps, 0, 10**9)
        check_bounds("tone_path.repeats", self.repeats, 1, 10**4)
        check_bounds("tone_path.num_drawn", self.num_drawn, 1, 10**5)
        check_bounds("tone_path.learning_rate", self.learning_rate, 0, 10)
        for name in ("level_weight", "pitch_weight", "kl_weight"):
            check_bounds(f"tone_path.{name}", getattr(self, name), 0, 1e6)


class SpectralTraining(VAETraining):
    """Training of an autoencoder of kind "spectral"; see the module's header."""

    def __init__(self, tone_path: TonePathConfig, **settings: Any) -> None:
        super().__init__(**settings)
        if self.optimiser.name != "adamw":
            raise UserError(f"the spectral autoencoder trains with optimiser.name adamw, got {self.optimiser.name}")
        self.tone_path = tone_path
        self.num_tone_channels = self.vae.config.spectral.tone_channels
        self._measured = torch.empty(0)
        """Tones of the present batch."""
        encoder_of(self.vae).components.requires_grad_(False)

    @property
    def in_tone_stage(self) -> bool:
        """Whether the tones alone are trained."""
        return self.part == "all" and self.completed_steps < self.tone_path.steps

    def rate(self) -> float:
        """Learning rate of the present step: every stage warms up and decays by itself, or the last would have none."""
        config, step = self.tone_path, self.completed_steps
        if self.in_tone_stage:
            return config.learning_rate * (1 - step / config.steps)
        stage_starts = (config.steps, self.stages.joint_steps) if self.part == "all" else (0,)
        start = max(start for start in stage_starts if start <= step)
        end = min((each for each in stage_starts if each > step), default=self.num_steps)
        return learning_rate(self.optimiser, step - start, end - start)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        first, second = super().configure_optimizers()
        return [scaled_groups(first, self.vae), second]

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.part == "all" and self.completed_steps == 0:
            start_from_components(encoder_of(self.vae), decoder_of(self.vae), self._first_crops().to(self.device))

    def optimise(self, batch: dict[str, Any]) -> None:
        if not self.in_tone_stage:
            super().optimise(batch)
            return
        optimiser = cast(list[LightningOptimizer], self.optimizers())[0]
        measured = encoder_of(self.vae).peaks(batch["audio"])[..., EDGE_FRAMES:-EDGE_FRAMES]
        measured = in_pieces(measured)
        generator = self._tone_generator()
        for _ in range(self.tone_path.repeats):
            tones = torch.cat((measured, self._drawn(generator)))
            others = tones.new_zeros(len(tones), self.vae.config.latent_channels - self.num_tone_channels, DRAWN_FRAMES)
            terms = self._code_terms(tones, others, generator)
            loss = sum(self._weights()[name] * value for name, value in terms.items())
            if self._optimise(optimiser, cast(Tensor, loss), self.vae, "generator", terms):
                self.update_averages()

    def posterior(self, audio: Tensor) -> Posterior:
        encoder = encoder_of(self.vae)
        self._measured = encoder.peaks(audio)  # for the teacher, too
        return self.vae.raw_posterior_of(encoder.of_tones(audio, self._measured))

    def _reconstruction_terms(
        self, vae: VAE, audio: Tensor, reconstruction: Tensor, posterior: Posterior, latents: Tensor
    ) -> dict[str, Tensor]:
        terms = super()._reconstruction_terms(vae, audio, reconstruction, posterior, latents)
        noise, code = (
            Posterior(*pair) for pair in zip(self._split(posterior.mean), self._split(posterior.std), strict=True)
        )
        is_training = vae is self.vae
        measured = self._measured if is_training else encoder_of(vae).peaks(audio)
        inside = slice(EDGE_FRAMES, -EDGE_FRAMES)
        amplitudes, cents = decoder_of(vae).tones(latents)
        teacher = tone_losses(amplitudes[..., inside], cents[..., inside], measured[..., inside])
        if is_training:
            generator = self._tone_generator()
            drawn = self._drawn(generator)
            others = in_pieces(self._split(latents.detach())[0])
            others = others[torch.randint(len(others), (len(drawn),), generator=generator).to(others.device)]
            on_drawn = self._code_terms(drawn, others, generator)
            teacher = {name: 0.5 * (value + on_drawn[name]) for name, value in teacher.items()}
        return terms | teacher | {"kl": noise.kl(), "tones/kl": code.kl()}

    def _weights(self) -> dict[str, float]:
        config = self.tone_path
        return super()._weights() | {
            "tones/level": config.level_weight,
            "tones/pitch": config.pitch_weight,
            "tones/kl": 0.0 if self.encoder_frozen else config.kl_weight,
        }

    def _code_terms(self, tones: Tensor, others: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of tones through code and decoder alone, beside `others` in the other channels of the latents."""
        with torch.set_grad_enabled(not self.encoder_frozen):
            posterior = self.vae.raw_posterior_of(encoder_of(self.vae).tone_code(tones).float())
        latents = torch.cat((others, posterior.sample(generator)), dim=1)
        return tone_losses(*decoder_of(self.vae).tones(latents), tones) | {"tones/kl": posterior.kl()}

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Channels of the bins, and of the tones: (batch, latent_channels, frames)."""
        values = values.float()
        return values[:, : -self.num_tone_channels], values[:, -self.num_tone_channels :]

    def _drawn(self, generator: torch.Generator) -> Tensor:
        return drawn_tones(self.tone_path.num_drawn, DRAWN_FRAMES, generator).to(self.device)

    def _tone_generator(self) -> torch.Generator:
        """Source of the drawn tones of this step and process."""
        return step_generator(self.seed, self.completed_steps, -1 - self.global_rank)

    def _first_crops(self) -> Tensor:
        """Crops of the training set, the same on all processes: (COMPONENT_CROPS, 2, samples)."""
        source = self.trainer.datamodule.source  # pyright: ignore[reportAttributeAccessIssue]
        items = chain.from_iterable(source.draw(index) for index in range(COMPONENT_CROPS))
        return torch.stack([torch.as_tensor(item["audio"]) for item in islice(items, COMPONENT_CROPS)])


def vae_training(tones: ToneLossConfig, tone_path: TonePathConfig, **settings: Any) -> VAETraining:
    """Return the training of an autoencoder of whatever kind."""
    if settings["vae"].config.kind == "spectral":
        return SpectralTraining(tone_path, **settings)
    if tones.weight or settings.get("part") == "tones":
        return BandTraining(tones, **settings)
    return VAETraining(**settings)


def in_pieces(values: Tensor) -> Tensor:
    """Cut (batch, channels, frames) into pieces (batch * pieces, channels, DRAWN_FRAMES); a rest is left out."""
    return values.unfold(-1, DRAWN_FRAMES, DRAWN_FRAMES).transpose(1, 2).flatten(0, 1)


def scaled_groups(optimiser: torch.optim.Optimizer, vae: VAE) -> torch.optim.Optimizer:
    """Give the encoder's layers groups of their own, with a "scale" of the learning rate."""
    encoder = encoder_of(vae)
    scales = {id(parameter): ENCODER_SCALE for parameter in encoder.trunk.parameters()}
    scales |= {id(parameter): FIRST_LAYER_SCALE for parameter in encoder.project.parameters()}
    groups = list(optimiser.param_groups)
    optimiser.param_groups.clear()
    for group in groups:
        for scale in (1.0, ENCODER_SCALE, FIRST_LAYER_SCALE):
            parameters = [p for p in group["params"] if p.requires_grad and scales.get(id(p), 1.0) == scale]
            if parameters:
                optimiser.add_param_group(group | {"params": parameters, "scale": scale})
    return optimiser


def encoder_of(vae: VAE) -> SpectralEncoder:
    """The encoder of an autoencoder of kind "spectral"."""
    return cast(SpectralEncoder, vae.encoder)


def decoder_of(vae: VAE) -> SpectralDecoder:
    """The decoder of an autoencoder of kind "spectral"."""
    return cast(SpectralDecoder, vae.decoder)
