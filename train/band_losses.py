"""What training needs for autoencoders of kind "bands" alone: the distance between tones, and their stage.

amplitudes (batch, channels, tones, frames); audio (batch, channels, samples)
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from models.errors import UserError, check_bounds
from models.vae import VAE, Posterior
from models.vae_bands import LONG_WINDOW, TonePower, tone_amplitudes, tones_of
from train.vae_training import VAETraining

NEIGHBOURHOOD = 25
"""Quarter tones, half an octave to either side, that a tone has to stand out from."""
PROMINENCE = 16.0
"""Power of a tone relative to the median of its neighbourhood; of noise one quarter tone in 65,000 has so much."""
FAINTEST_TONE = 1e-5
"""Power below which a tone is none, -50 dBFS."""
TINY_POWER = 1e-9
"""Added to a tone's power before the logarithm; far below the faintest tone, so that one that is off has a gradient."""


@dataclass(frozen=True, kw_only=True)
class ToneLossConfig:
    weight: float = 0.0
    """Weight of the distance between tones, for an autoencoder of kind "bands"; 0 = none."""
    steps: int = 8
    """Optimiser steps on each batch of `--train tones`."""

    def __post_init__(self) -> None:
        check_bounds("tones.weight", self.weight, 0, 1e6)
        check_bounds("tones.steps", self.steps, 1, 10_000)


class ToneLoss(nn.Module):
    """Distance between the decoder's tones and the tones there are: a teacher for `models.vae_bands`.

    A tone is a peak among the quarter tones' powers that stands far above the half octave on both sides of it. In a
    spectrogram a missing tone is a few bins of thousands, and a tone that is almost off hardly has a gradient through
    its gain; here it has, since gains are compared in dB.

    Args:
        hop_length: of the latents.
    """

    def __init__(self, hop_length: int, sample_rate: int) -> None:
        super().__init__()
        self.power = TonePower(hop_length, sample_rate)

    def forward(self, amplitudes: Tensor, audio: Tensor) -> Tensor:
        """Mean squared log ratio (of amplitudes) over tones and frames.

        Args:
            amplitudes: of the decoder's tones, (batch, channels, tones, frames).
            audio: the target, (batch, channels, frames * hop_length).

        Raises:
            UserError: there are at most 8 frames, of which no window would be full.
        """
        if amplitudes.shape[-1] <= LONG_WINDOW:
            raise UserError(f"tones need crops of more than {LONG_WINDOW} frames, got {amplitudes.shape[-1]}")
        wanted = tone_peaks(self.power(audio.float()).unflatten(1, amplitudes.shape[1:3]))
        ratio = (amplitudes.float().square() + TINY_POWER).log() - wanted.clamp_min(FAINTEST_TONE).log()
        is_on = wanted > FAINTEST_TONE
        error = torch.where(is_on, ratio, ratio.clamp_min(0))  # where there is none, any faint one will do
        inside = slice(LONG_WINDOW // 2, -(LONG_WINDOW // 2))  # at both ends the windows are not full
        return (0.5 * error[..., inside]).square().mean()


def tone_peaks(power: Tensor) -> Tensor:
    """Power at quarter tones (batch, channels, tones, frames), 0 where there is no tone but noise or a tone's flank."""
    reach = NEIGHBOURHOOD // 2
    padded = F.pad(power.transpose(2, 3).flatten(0, 1), (reach, reach), mode="replicate")
    around = padded.unfold(-1, NEIGHBOURHOOD, 1).unflatten(0, power.shape[:2])  # (..., frames, tones, neighbourhood)
    middle = around[..., reach]
    highest = middle >= around[..., reach - 1 : reach + 2].amax(dim=-1)
    stands_out = middle > PROMINENCE * around.median(dim=-1).values
    return (middle * (highest & stands_out)).transpose(2, 3)


class BandTraining(VAETraining):
    """Training of an autoencoder of kind "bands": one more term, and a stage of the tones' branch alone."""

    def __init__(self, tones: ToneLossConfig, **settings: Any) -> None:
        super().__init__(**settings)
        config = self.vae.config
        if config.kind != "bands":
            raise UserError('tones.weight is for autoencoders of kind "bands"; this one has no tones: set it to 0')
        if self.part == "tones":
            if not tones.weight:
                raise UserError("--train tones needs a tones.weight above 0")
            self.vae.requires_grad_(False)
            tones_of(self.vae.decoder).requires_grad_(True)
        self.tones = tones
        self.tone_loss = ToneLoss(self.vae.hop_length, config.sample_rate)

    def optimise(self, batch: dict[str, Any]) -> None:
        if self.part != "tones":
            super().optimise(batch)
            return
        optimiser = cast(list[LightningOptimizer], self.optimizers())[0]
        audio = self.vae.from_stereo(batch["audio"])
        posterior, generators = self._encode(audio)
        for _ in range(self.tones.steps):  # with other latents each: encoding is what takes the time
            loss = self.tone_loss(tone_amplitudes(self.vae.decoder, posterior.sample(generators)), audio)
            if self._optimise(optimiser, self.tones.weight * loss, self.vae, "generator", {"tones": loss}):
                self.update_averages()

    def _reconstruction_terms(
        self, vae: VAE, audio: Tensor, reconstruction: Tensor, posterior: Posterior, latents: Tensor
    ) -> dict[str, Tensor]:
        terms = super()._reconstruction_terms(vae, audio, reconstruction, posterior, latents)
        return terms | {"tones": self.tone_loss(tone_amplitudes(vae.decoder, latents), audio)}

    def _weights(self) -> dict[str, float]:
        return super()._weights() | {"tones": self.tones.weight}
