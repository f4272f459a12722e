"""The variational autoencoder: stereo audio <-> latents `hop_length` times shorter.

Class VAE holds what all kinds of autoencoder share: the posterior, the latents' statistics, the checkpoint. A kind is
one file with a configuration that builds an encoder and a decoder (`VAELayers`): `models.vae_waveform` is the paper's.
Every operation is local in time, so both directions can be streamed exactly (`models.streaming`).

    audio    (batch, audio_channels, samples)
    latents  (batch, latent_channels, frames), samples = frames * hop_length

Latents that leave `encode` and `posterior` are normalised with the mean and standard deviation per channel that were
measured on the training set after training; `decode` takes normalised latents.

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.1.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from models.checkpoint import Checkpoint, Part, load_weights, part_of, read_checkpoint, save_parts, without_weights
from models.errors import UserError
from models.saved_config import building
from models.vae_bands import BandsConfig
from models.vae_spectral import SpectralConfig
from models.vae_waveform import WaveformConfig, convolutions

PART = "vae"
MIN_STD = 1e-4


class VAELayers(Protocol):
    """What the configuration of a kind of autoencoder gives: the contract between class VAE and the kind's own file.

    The encoder turns audio (batch, audio_channels, frames * hop_length) into the posterior's parameters (batch,
    2 latent_channels, frames): means, then scales, whose softplus is the standard deviation. The decoder turns latents
    (batch, latent_channels, frames), not normalised, into audio (batch, audio_channels, frames * hop_length). Both are
    local in time and made of layers that `models.streaming.layer_stream` streams exactly: those that it knows, or
    modules that have a method `streamed`. The weights' names in a checkpoint are "encoder." and "decoder." and the
    names inside of the two modules.
    """

    has_weight_norm: ClassVar[bool]
    """Whether the convolutions but for the encoder's last are re-parametrised for training."""

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        ...

    def build(
        self, *, audio_channels: int, latent_channels: int, sample_rate: int, initial_log_std: float
    ) -> tuple[nn.Module, nn.Module]:
        """Build the encoder and the decoder, with the weights that training starts from."""
        ...


Kind = Literal["waveform", "spectral", "bands"]
KINDS: dict[Kind, type[VAELayers]] = {"waveform": WaveformConfig, "spectral": SpectralConfig, "bands": BandsConfig}


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    kind: Kind = "waveform"
    """Kind of encoder and decoder: "waveform" is the paper's, "spectral" for small budgets, "bands" the older
    shipped model's."""
    sample_rate: int = 44_100
    """Samples per second of the audio the model is trained on."""
    audio_channels: int = 2
    """Channels of the audio, 2 for stereo."""
    latent_channels: int = 64
    """Channels of the latents."""
    initial_log_std: float = -3.0
    """Bias of the posterior's scale before softplus, at the start of training."""
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    """Sizes of the kind "waveform"."""
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    """Sizes of the kind "spectral"."""
    bands: BandsConfig = field(default_factory=BandsConfig)
    """Sizes of the kind "bands"."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"kind of autoencoder must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for kind, config_class in KINDS.items():
            layers = getattr(self, kind)
            if isinstance(layers, dict):
                layers = config_class(**layers)
                object.__setattr__(self, kind, layers)
            if kind != self.kind and layers != config_class():
                raise UserError(f"sizes of kind {kind!r} are given, but the autoencoder's kind is {self.kind!r}")

    @property
    def layers(self) -> VAELayers:
        """The configuration of the kind that this is."""
        return getattr(self, self.kind)

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.layers.hop_length

    def saved(self) -> dict[str, Any]:
        """What a checkpoint stores: without the sizes of the other kinds."""
        others = set(KINDS) - {self.kind}
        return {name: value for name, value in asdict(self).items() if name not in others}


def in_kinds(saved: dict[str, Any], where: str) -> dict[str, Any]:
    """Bring the stored configuration of an older checkpoint, with all sizes on one level, to that of `VAEConfig`."""
    if "kind" in saved:
        return saved
    kind = "bands" if saved.get("band_levels") else "waveform"
    if kind == "waveform" and saved.get("stem_stride", 1) != 1:
        raise UserError(f"{where}: autoencoders with a stem_stride and without band_levels are not supported any more")
    shared = {each.name for each in fields(VAEConfig)} - set(KINDS)
    dropped = {"hop_length", "band_levels"} | ({"stem_stride"} if kind == "waveform" else set())
    sizes = {name: value for name, value in saved.items() if name not in shared | dropped}
    return {name: value for name, value in saved.items() if name in shared} | {"kind": kind, kind: sizes}


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents: mean and std, each (batch, latent_channels, frames)."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
        """Draw latents; the noise comes from one generator, from one for each sample, or from the global one."""
        shape, dtype, device = self.mean.shape, self.mean.dtype, self.mean.device
        if generator is None:
            noise = torch.randn_like(self.mean)
        elif isinstance(generator, torch.Generator):
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
        else:
            noise = torch.stack([torch.randn(shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator])
        return self.mean + self.std * noise.to(device)

    def kl(self) -> Tensor:
        """Divergence from N(0, 1): summed over channels, mean over batch and time, without the factor 1/2."""
        variance = self.std.square()
        return (self.mean.square() + variance - variance.log() - 1).sum(dim=1).mean()


class VAE(nn.Module):
    """Fully-convolutional autoencoder; see the module's header for tensors."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = config.layers.build(
            audio_channels=config.audio_channels,
            latent_channels=config.latent_channels,
            sample_rate=config.sample_rate,
            initial_log_std=config.initial_log_std,
        )
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1))

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.config.hop_length

    def num_frames(self, num_samples: int) -> int:
        """Latent frames that hold `num_samples` samples; the last frame may be partly padding."""
        return -(-num_samples // self.hop_length)

    def from_stereo(self, audio: Tensor) -> Tensor:
        """Stereo audio (..., 2, samples) as the model takes it: folded to one channel for a mono model."""
        return audio.mean(dim=-2, keepdim=True) if self.config.audio_channels == 1 else audio

    def raw_posterior(self, audio: Tensor) -> Posterior:
        """Encode without normalisation, as the training losses need it: (batch, channels, samples) -> Posterior.

        Audio whose length is no multiple of the hop is padded with silence at its end.
        """
        if audio.ndim != 3 or audio.shape[1] != self.config.audio_channels:
            raise ValueError(
                f"audio must be (batch, {self.config.audio_channels}, samples), got shape {tuple(audio.shape)}"
            )
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        return self.raw_posterior_of(self.encoder(audio))

    def raw_posterior_of(self, encoded: Tensor) -> Posterior:
        """Posterior that the encoder's output (batch, 2 latent_channels, frames) stands for, not normalised."""
        mean, scale = encoded.chunk(2, dim=1)  # (batch, latent_channels, frames) each
        return Posterior(mean, F.softplus(scale) + MIN_STD)

    def posterior(self, audio: Tensor) -> Posterior:
        """Posterior over normalised latents: (batch, channels, samples) -> Posterior."""
        return self.normalise(self.raw_posterior(audio))

    def normalise(self, raw: Posterior) -> Posterior:
        """Posterior over normalised latents from one over raw latents."""
        return Posterior((raw.mean - self.latent_mean) / self.latent_std, raw.std / self.latent_std)

    def encode(self, audio: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Encode to normalised latents: (batch, channels, samples) -> (batch, latent_channels, frames).

        Args:
            sample: draw from the posterior instead of taking its mean.
            generator: source of the posterior's noise.
        """
        posterior = self.posterior(audio)
        return posterior.sample(generator) if sample else posterior.mean

    def denormalise(self, latents: Tensor) -> Tensor:
        """Normalised latents to what the decoder's layers take: (batch, latent_channels, frames) -> same."""
        return latents * self.latent_std + self.latent_mean

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents: (batch, latent_channels, frames) -> (batch, channels, frames * hop_length)."""
        return self.decoder(self.denormalise(latents))

    def forward(self, audio: Tensor) -> tuple[Tensor, Posterior]:
        """Reconstruct from a posterior sample, as in training: audio -> (reconstruction, raw posterior)."""
        posterior = self.raw_posterior(audio)
        return self.decoder(posterior.sample())[..., : audio.shape[-1]], posterior

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store mean and std per channel of the raw latents over the training set, each (latent_channels,)."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise UserError("latent statistics must be finite and the std positive; has the VAE been trained?")
        self.latent_mean.copy_(mean.view_as(self.latent_mean))
        self.latent_std.copy_(std.view_as(self.latent_std))

    def add_weight_norm(self) -> "VAE":
        """Re-parametrise the convolutions for training, if the kind has it so. Idempotent."""
        for convolution in self._normed_convolutions():
            if not is_parametrized(convolution):
                weight_norm(convolution)
        return self

    @torch.no_grad()
    def folded(self) -> "VAE":
        """Return a copy for inference, weight-norm folded into plain weights."""
        plain = VAE(self.config).to(self.latent_mean.device)
        state = {key: value for key, value in self.state_dict().items() if ".parametrizations." not in key}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                state[f"{name}.weight"] = module.weight
        plain.load_state_dict(state)
        return plain.eval().requires_grad_(False)

    def part(self, dtype: torch.dtype = torch.float16) -> Part:
        """Part "vae" of a checkpoint. Weight-norm must have been folded."""
        if any(is_parametrized(convolution) for convolution in self._normed_convolutions()):
            raise ValueError("fold the weight-norm before saving: save folded()")
        return part_of(PART, self.config.saved(), self, dtype)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write part "vae" of a checkpoint folder. Weight-norm must have been folded."""
        save_parts(folder, [self.part(dtype)])

    @classmethod
    def load(cls, folder: str | Path) -> "VAE":
        """Read part "vae" of a checkpoint folder, on the CPU, for inference.

        Raises:
            FileNotFoundError: the folder is not a checkpoint.
            UserError: the weights do not fit the configuration.
        """
        return read_checkpoint(folder, cls.of)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "VAE":
        """Read part "vae" of a checkpoint."""
        saved = in_kinds(checkpoint.config(PART), str(checkpoint.path))
        config = checkpoint.build_config(PART, VAEConfig, saved)
        with building(f"{checkpoint.path}: {PART}"), without_weights():
            vae = cls(config)
        load_weights(vae, checkpoint.weights(PART), f"{checkpoint.folder} ({PART})")
        return vae.eval().requires_grad_(False)

    def _normed_convolutions(self) -> list[nn.Conv1d | nn.ConvTranspose1d]:
        if not self.config.layers.has_weight_norm:
            return []
        return [*convolutions(self.encoder)[:-1], *convolutions(self.decoder)]
