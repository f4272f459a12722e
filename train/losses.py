"""Losses of the autoencoder: spectra of sum and difference, adversarial, feature matching.

The spectral part is the sum/difference multi-resolution STFT loss of Steinmetz et al. (auraloss) with three cures:
A-weighting is applied once instead of once a resolution (the same value), spectral convergence is one ratio per item
and channel with a floor (silent and dual-mono targets stay finite), and the logarithm has a floor that passes
gradients. Weights relative to the item's level keep a small model from spending itself on the empty parts of a
spectrum.

All of it runs in float32, outside autocast.

    audio  (batch, channels, samples)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchaudio
from auraloss.perceptual import FIRFilter
from torch import Tensor, nn

from models.errors import UserError, check_bounds
from models.spectrum import power_spectrum

LEFT_RIGHT_WEIGHT = 0.5
BLOCK = 128
"""Samples that are filtered at once."""


@dataclass(frozen=True, kw_only=True)
class SpectralLossConfig:
    window_lengths: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64, 32)
    """Spectrogram windows in samples; the hop is a quarter."""
    mel_bins: int = 0
    """Mel bands of the longest window (shorter windows get proportionally fewer, at least 5); 0 = no mel term."""
    mel_frames: int = 1
    """Frames over which the mel term averages power before the logarithm. Above 1 it compares levels rather than the
    chance fluctuations of noise, which otherwise make noise come out too quiet."""
    power_floor: float = 1e-8
    """Added to every bin's power before the logarithm; a bin of white noise at -75 dBFS has about 1e-8."""
    relative_floor: float = 0.0
    """Bins this much below the item's mean power, as a share of it, count half in the log terms; 0 = all count. The
    terms are means over what counts in the item, so that a tone's few bins weigh as much as a noise's many."""
    convergence_floor: float = 1e-2
    """Share of the item's mean power below which a channel's convergence is measured against the item instead."""
    quiet_rms: float = 0.0
    """RMS at which an item counts half; 0 = all items count alike. Every term is relative to the item's level, so
    gradients grow as items get quieter, and a corpus of very different levels needs this."""
    windows_per_step: int = 0
    """Windows that a training step draws from as many equal parts of `window_lengths`, at less cost; 0 = all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_lengths", tuple(self.window_lengths))
        if not self.window_lengths:
            raise UserError("loss.spectral.window_lengths must name at least one window")
        for length in self.window_lengths:
            check_bounds("loss.spectral.window_lengths", length, 8, 2**20)
        check_bounds("loss.spectral.mel_bins", self.mel_bins, 0, 100_000)
        check_bounds("loss.spectral.mel_frames", self.mel_frames, 1, 10_000)
        for name in ("power_floor", "relative_floor", "convergence_floor", "quiet_rms"):
            check_bounds(f"loss.spectral.{name}", getattr(self, name), 0, 1e6)
        if self.windows_per_step and len(self.window_lengths) % self.windows_per_step:
            raise UserError(
                f"windows_per_step must divide the number of window_lengths, {len(self.window_lengths)}, "
                f"got {self.windows_per_step}"
            )


class SpectralLoss(nn.Module):
    """Multi-resolution distances between spectra of sum, difference, left and right."""

    blocks: Tensor

    def __init__(self, config: SpectralLossConfig, sample_rate: int, audio_channels: int) -> None:
        super().__init__()
        self.config = config
        self.audio_channels = audio_channels
        self.a_weighting = FIRFilter(filter_type="aw", fs=sample_rate)
        self.register_buffer("blocks", filter_blocks(self.a_weighting.fir.weight.flatten()), persistent=False)
        for length in config.window_lengths:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)
            if config.mel_bins:
                bins = max(5, config.mel_bins * length // max(config.window_lengths))
                bank = torchaudio.functional.melscale_fbanks(
                    length // 2 + 1, 0.0, sample_rate / 2, bins, sample_rate, norm="slaney"
                )
                used = bank[:, bank.sum(dim=0) > 0]  # narrow bands between two bins are empty
                self.register_buffer(f"mel_{length}", used / used.sum(dim=0), persistent=False)

    def drawn_windows(self, generator: torch.Generator) -> tuple[int, ...]:
        """Windows for a training step, one of each part; the mean over many steps is that of all windows."""
        lengths, count = self.config.window_lengths, self.config.windows_per_step
        if not count:
            return lengths
        size = len(lengths) // count
        drawn = torch.randint(size, (count,), generator=generator).tolist()
        return tuple(lengths[part * size + index] for part, index in enumerate(drawn))

    def forward(
        self, prediction: Tensor, target: Tensor, window_lengths: tuple[int, ...] | None = None
    ) -> dict[str, Tensor]:
        """Return terms "stft/convergence", "stft/log_magnitude" and, if configured, "stft/mel", each a scalar.

        Args:
            window_lengths: some of the configuration's; None: all.
        """
        window_lengths = window_lengths or self.config.window_lengths
        item_rms = target.float().square().mean(dim=(1, 2)).sqrt()
        item_weights = (item_rms + 1e-6) / (item_rms + 1e-6 + self.config.quiet_rms)  # (batch,)
        prediction, target = self._channels(prediction.float()), self._channels(target.float())
        weights = self._channel_weights(prediction.device)  # (channels,)
        terms: dict[str, Tensor] = {}
        for length in window_lengths:
            for name, distance in self._distances(prediction, target, length).items():  # distance (batch, channels)
                value = ((distance * weights).sum(dim=1) * item_weights).mean() / len(window_lengths)
                terms[name] = terms[name] + value if name in terms else value
        return terms

    def _distances(self, prediction: Tensor, target: Tensor, length: int) -> dict[str, Tensor]:
        power_p, power_t = self._power(prediction, length), self._power(target, length)  # (batch, channels, bins, time)
        item_power = power_t.mean(dim=(1, 2, 3), keepdim=True)
        relative_floor = self.config.relative_floor * item_power
        error = (power_p.sqrt() - power_t.sqrt()).square().mean(dim=(2, 3))
        reference = power_t.mean(dim=(2, 3)) + self.config.convergence_floor * item_power[:, :, 0, 0]
        distances = {
            "stft/convergence": ((error + 1e-12) / (reference + self.config.power_floor)).sqrt(),
            "stft/log_magnitude": self._log_distance(power_p, power_t, relative_floor),
        }
        if self.config.mel_bins:
            bank = getattr(self, f"mel_{length}")  # (bins, mels)
            mel_p, mel_t = (self._smooth(power.transpose(2, 3) @ bank) for power in (power_p, power_t))
            distances["stft/mel"] = self._log_distance(mel_p, mel_t, relative_floor)
        return distances

    def _smooth(self, power: Tensor) -> Tensor:
        """Average over `mel_frames` frames at a time; the last few are left out. (batch, channels, frames, bins)."""
        frames = min(self.config.mel_frames, power.shape[2])
        whole = power.shape[2] // frames * frames
        return power[:, :, :whole].unflatten(2, (-1, frames)).mean(dim=3) if frames > 1 else power

    def _log_distance(self, power_p: Tensor, power_t: Tensor, relative_floor: Tensor) -> Tensor:
        """Mean |log ratio| of magnitudes, (batch, channels); bins where both are below the relative floor count less.

        A floor inside the logarithm would do that too, but takes the gradient from a prediction that is too quiet.
        """
        distance = 0.5 * ((power_p + self.config.power_floor) / (power_t + self.config.power_floor)).log().abs()
        if self.config.relative_floor == 0:
            return distance.mean(dim=(2, 3))
        louder = torch.maximum(power_p.detach(), power_t)
        weight = (louder + self.config.power_floor) / (louder + self.config.power_floor + relative_floor)
        counted = weight.sum(dim=(2, 3)).mean(dim=1, keepdim=True)  # (batch, 1): an empty channel counts little
        return (weight * distance).sum(dim=(2, 3)) / counted

    def _power(self, audio: Tensor, length: int) -> Tensor:
        power = power_spectrum(audio.flatten(0, 1), getattr(self, f"window_{length}"))
        return power.add_(1e-14).unflatten(0, audio.shape[:2])  # the square root of 0 has no gradient

    def _channels(self, audio: Tensor) -> Tensor:
        """A-weighted (sum, difference, left, right) of stereo audio; mono stays as it is."""
        audio = filter_audio(audio, self.blocks)
        if self.audio_channels != 2:
            return audio
        left, right = audio.unbind(dim=1)
        return torch.stack((left + right, left - right, left, right), dim=1)

    def _channel_weights(self, device: torch.device) -> Tensor:
        """Sum and difference count half each, as their mean; left and right likewise, times 0.5."""
        if self.audio_channels != 2:
            return torch.full((self.audio_channels,), 1 / self.audio_channels, device=device)
        side = 0.5 * LEFT_RIGHT_WEIGHT
        return torch.tensor((0.5, 0.5, side, side), device=device)


def filter_blocks(taps: Tensor) -> Tensor:
    """A filter as a matrix (BLOCK + taps - 1, BLOCK): a block of the filtered signal is inputs @ matrix."""
    inputs, outputs = torch.arange(BLOCK + len(taps) - 1)[:, None], torch.arange(BLOCK)
    tap = inputs - outputs
    return torch.where((tap >= 0) & (tap < len(taps)), taps[tap.clamp(0, len(taps) - 1)], 0.0)


def filter_audio(audio: Tensor, blocks: Tensor) -> Tensor:
    """Filter (batch, channels, samples), centred: a tenth of the time of an FFT or a convolution of one channel."""
    reach = len(blocks) - BLOCK  # taps - 1
    samples = audio.shape[-1]
    padded = F.pad(audio, (reach // 2, reach - reach // 2 + -samples % BLOCK))
    return (padded.unfold(-1, len(blocks), BLOCK) @ blocks).flatten(2)[..., :samples]


def waveform_loss(prediction: Tensor, target: Tensor, floor: float = 3e-2) -> Tensor:
    """Squared error relative to the target's energy, per item; `floor` is the RMS under which it becomes absolute."""
    error = (prediction.float() - target.float()).square().mean(dim=(1, 2))
    energy = target.float().square().mean(dim=(1, 2))
    return (error / (energy + floor**2)).mean()


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss over the logits of every scale. Source: Lim & Ye 2017, eq. 7."""
    losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: list[Tensor]) -> Tensor:
    """Hinge loss of the generator: minus the mean logit, mean over scales."""
    return torch.stack([-f.float().mean() for f in fake]).mean()


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Mean absolute difference of every layer relative to the real features' mean size, mean over layers and scales."""
    distances = [
        (r.detach().float() - f.float()).abs().mean() / r.detach().float().abs().mean().clamp_min(1e-6)
        for scale_real, scale_fake in zip(real, fake, strict=True)
        for r, f in zip(scale_real, scale_fake, strict=True)
    ]
    return torch.stack(distances).mean()
