"""CLAP's audio tower: log-mel spectrogram and HTSAT, a Swin transformer over it.

Paper: Chen et al. 2022, HTS-AT (2202.00874). HTSAT itself is `transformers`' implementation, built from our
configuration. The spectrogram (frames, mels) is folded into a square image of spec_size: long in time, it is cut into
spec_size / num_mels strips that lie under one another.

audio (batch, channels, samples); num_samples (batch,) real samples; embedding (batch, width).
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.errors import UserError, check_bounds

MIN_POWER = 1e-10
"""Floor of the mel power, -100 dB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClapAudioConfig:
    """Shape of the audio tower; the defaults are LAION's, 28 M parameters with 10 s at 48 kHz."""

    sample_rate: int = 48_000
    """Sample rate of the audio (Hz)."""
    channels: int = 1
    """1: the mean of the audio's channels; 2: left and right, so that words such as "on the left" can be learned."""
    clip_samples: int = 480_000
    """Length the tower sees at once (samples); shorter audio is repeated, longer audio is cut into several."""
    fft_size: int = 1024
    """Window of the spectrogram (samples)."""
    hop_length: int = 480
    """Step of the spectrogram (samples)."""
    num_mels: int = 64
    """Mel bands; must divide spec_size."""
    min_hz: float = 50.0
    """Lower edge of the lowest mel band (Hz)."""
    max_hz: float = 14_000.0
    """Upper edge of the highest mel band (Hz)."""
    spec_size: int = 256
    """Side of the square image; spec_size^2 / num_mels frames fit in."""
    patch_size: int = 4
    """Side of one patch of the image, which becomes one token."""
    window_size: int = 8
    """Side of an attention window (tokens)."""
    embed_width: int = 96
    """Width of the first stage's tokens; every stage doubles it."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Layers of each stage."""
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads of each stage."""
    dropout: float = 0.0
    """Dropout of layer outputs in training."""

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("clip_samples", "fft_size", "hop_length", "num_mels", "spec_size", "patch_size", "window_size"):
            check_bounds(name, getattr(self, name), 1, 10**8)
        for each in (*self.depths, *self.num_heads):
            check_bounds("depths and num_heads", each, 1, 1000)
        if self.channels not in (1, 2):
            raise UserError(f"channels must be 1 or 2, got {self.channels}")
        if self.spec_size % self.num_mels:
            raise UserError(f"num_mels must divide spec_size {self.spec_size}, got {self.num_mels}")
        frames = 1 + self.clip_samples // self.hop_length
        if frames > self.max_frames:
            raise UserError(
                f"clip_samples {self.clip_samples} make {frames} frames, at most {self.max_frames} fit into spec_size "
                f"{self.spec_size} with {self.num_mels} mels: use at most {(self.max_frames - 1) * self.hop_length}"
            )
        if len(self.depths) != len(self.num_heads):
            raise UserError(f"depths and num_heads must be equally long, got {self.depths} and {self.num_heads}")
        rows = self.spec_size // self.patch_size // 2 ** (len(self.depths) - 1)
        needed = max(self.window_size, self.spec_size // self.num_mels)
        if rows < needed:
            raise UserError(
                f"spec_size {self.spec_size} is too small: the last of {len(self.depths)} stages has {rows} rows of "
                f"tokens and needs {needed} (window_size, and one for each strip of {self.num_mels} mels)"
            )

    @property
    def max_frames(self) -> int:
        """Spectrogram frames that fit into the image."""
        return self.spec_size * (self.spec_size // self.num_mels)

    @property
    def width(self) -> int:
        """Width of the embedding."""
        return self.embed_width * 2 ** (len(self.depths) - 1)


class LogMel(nn.Module):
    """Mel power spectrogram in dB (batch, channels, frames, mels), always computed in float32.

    Slaney's mel scale and normalisation, as in librosa and in `ClapFeatureExtractor` without fusion.
    """

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.fft_size, self.hop_length = config.fft_size, config.hop_length
        with torch.device("cpu"):
            filters = melscale_fbanks(
                config.fft_size // 2 + 1,
                config.min_hz,
                config.max_hz,
                config.num_mels,
                config.sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )
            window = torch.hann_window(config.fft_size)
        self.filters: Tensor
        self.window: Tensor
        self.register_buffer("filters", filters, persistent=False)  # (bins, mels)
        self.register_buffer("window", window, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        batch, channels, _ = audio.shape
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float().flatten(0, 1), self.fft_size, self.hop_length, window=self.window, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()  # (batch * channels, bins, frames)
            mel = power.transpose(1, 2) @ self.filters
            return 10 * mel.clamp_min(MIN_POWER).log10().unflatten(0, (batch, channels))


class ClapAudioTower(nn.Module):
    """Audio of one clip's length to one vector."""

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        from transformers import ClapAudioConfig as HuggingFaceConfig
        from transformers import ClapAudioModel

        self.config = config
        self.log_mel = LogMel(config)
        self.htsat = ClapAudioModel(
            HuggingFaceConfig(
                window_size=config.window_size,
                num_mel_bins=config.num_mels,
                spec_size=config.spec_size,
                patch_size=config.patch_size,
                patch_stride=[config.patch_size, config.patch_size],
                patch_embed_input_channels=config.channels,
                patch_embeds_hidden_size=config.embed_width,
                hidden_size=config.width,
                depths=list(config.depths),
                num_attention_heads=list(config.num_heads),
                num_hidden_layers=len(config.depths),
                hidden_dropout_prob=config.dropout,
                enable_fusion=False,
            )
        )

    def forward(self, audio: Tensor, num_samples: Tensor) -> Tensor:
        """Embed (batch, width) audio (batch, channels, samples) of at most clip_samples.

        Audio is repeated whole up to clip_samples and the rest is silence, LAION's "repeatpad".
        """
        if self.config.channels == 1:
            audio = audio.mean(dim=1, keepdim=True)
        elif audio.shape[1] == 1:
            audio = audio.expand(-1, 2, -1)
        audio = repeat_pad(audio, num_samples, self.config.clip_samples)
        return self.htsat(self.log_mel(audio)).pooler_output


def repeat_pad(audio: Tensor, num_samples: Tensor, length: int) -> Tensor:
    """Repeat the first num_samples (batch,) of audio (batch, channels, samples) as often as they fit into `length`."""
    num_samples = num_samples.clamp(1, min(length, audio.shape[-1]))[:, None]
    index = torch.arange(length, device=audio.device).expand(len(audio), length)  # (batch, length)
    is_sound = index < num_samples * (length // num_samples)
    index = (index % num_samples)[:, None].expand(-1, audio.shape[1], -1)
    return audio.gather(-1, index) * is_sound[:, None]


def split_into_clips(num_samples: int, clip_samples: int) -> int:
    """Number of clips that cover `num_samples`."""
    return max(1, math.ceil(num_samples / clip_samples))


def audio_config_from_huggingface(config: Mapping, frontend: Mapping) -> ClapAudioConfig:
    """Translate a ClapAudioConfig and the model folder's preprocessor_config.json (empty: LAION's values)."""
    defaults = ClapAudioConfig()
    sample_rate = frontend.get("sampling_rate", defaults.sample_rate)
    patch_size, patch_stride = config.get("patch_size", 4), config.get("patch_stride", [4, 4])
    if not config.get("enable_patch_layer_norm", True) or list(patch_stride) != [patch_size, patch_size]:
        raise UserError(f"HTSAT needs a patch norm and patch_stride = patch_size, got {patch_stride}, {patch_size}")
    return ClapAudioConfig(
        sample_rate=sample_rate,
        channels=config.get("patch_embed_input_channels", 1),
        clip_samples=frontend.get("max_length_s", 10) * sample_rate,
        fft_size=frontend.get("fft_window_size", defaults.fft_size),
        hop_length=frontend.get("hop_length", defaults.hop_length),
        num_mels=config["num_mel_bins"],
        min_hz=frontend.get("frequency_min", defaults.min_hz),
        max_hz=frontend.get("frequency_max", defaults.max_hz),
        spec_size=config["spec_size"],
        patch_size=patch_size,
        window_size=config["window_size"],
        embed_width=config["patch_embeds_hidden_size"],
        depths=tuple(config["depths"]),
        num_heads=tuple(config["num_attention_heads"]),
        dropout=config["hidden_dropout_prob"],
    )
