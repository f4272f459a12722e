"""What AudioLDM, AudioLDM2 and VoiceLDM share: latents of mel spectrograms, a 2-D U-Net that predicts noise, a vocoder.

    latents (batch, channels * bins, frames) --decoder in windows--> log-mel --HiFi-GAN--> 16 kHz --> 44.1 kHz, stereo

Latents are flattened to channels at this border, so that nobody else has a second case. A frame is 40 ms: 640 samples
at 16 kHz, exactly 1,764 at 44.1 kHz. What the network predicts is turned into v at once.

Sources: Liu et al. 2023 (AudioLDM, 2301.12503), section 3; the conversion of eps to v is in `infer.hosts.noise_clock`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from infer.hosts.conditioning import NamedConditioning
from infer.hosts.frame_times import FrameTimes
from infer.hosts.mel_windows import MelWindows, WindowConfig
from infer.hosts.noise_clock import NoiseClock, velocity_from_eps
from infer.hosts.vocoder import ResamplerStream, vocoder_stream
from models.device import Precision, autocast_to
from models.errors import UserError
from models.fingerprint import weights_fingerprint
from models.texts import Text
from models.timing import Position

SAMPLE_RATE = 44_100
TRAINED_SECONDS = 10.24


class MelHost(nn.Module):
    """`infer.hosts.host.Host` but for `condition`, what a text becomes.

    Args:
        unet, vae, vocoder: diffusers' UNet2DConditionModel (or AudioLDM2's) and AutoencoderKL, transformers' HiFi-GAN.
        scheduler: any scheduler of diffusers, for its table of noise levels.

    Raises:
        UserError: the parts do not fit each other, or predict something else than noise.
    """

    sample_rate = SAMPLE_RATE
    max_seconds: float | None = None
    known_seconds: float | None = None

    def __init__(self, unet: Any, vae: Any, vocoder: Any, scheduler: Any, windows: WindowConfig | None = None):
        super().__init__()
        if scheduler.config.prediction_type != "epsilon":
            raise UserError(f"expected a model that predicts epsilon, got {scheduler.config.prediction_type}")
        self.unet, self.vae, self.vocoder = unet, vae, vocoder
        self.windows = windows or WindowConfig()
        self._precision: Precision = "float32"
        self.clock = NoiseClock(scheduler.alphas_cumprod)
        self._frame_times = FrameTimes(unet)
        self._mel_factor = 2 ** (len(vae.config.block_out_channels) - 1)  # mel frames per latent frame
        self._channels = unet.config.in_channels
        self._bins = vocoder.config.model_in_dim // self._mel_factor
        self._frame_samples = math.prod(vocoder.config.upsample_rates) * self._mel_factor  # at the vocoder's rate
        if self._frame_samples * SAMPLE_RATE % vocoder.config.sampling_rate:
            raise UserError(
                f"a frame of {self._frame_samples} samples at {vocoder.config.sampling_rate} Hz is no whole number of "
                f"samples at {SAMPLE_RATE} Hz"
            )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.unet.parameters()).device

    @property
    def latent_channels(self) -> int:
        """Channels times frequency bins of the latents."""
        return self._channels * self._bins

    @property
    def hop_length(self) -> int:
        """Samples at 44.1 kHz per latent frame."""
        return self._frame_samples * SAMPLE_RATE // self.vocoder.config.sampling_rate

    @property
    def window_frames(self) -> int:
        """Frames of the clips that it was trained on."""
        return round(TRAINED_SECONDS * SAMPLE_RATE / self.hop_length)

    @property
    def time_stride(self) -> int:
        """Frames of a cell at the U-Net's coarsest level: chunk and context are best multiples of it."""
        return self._frame_times.time_stride

    def noise_time(self, position: Tensor) -> Tensor:
        """Return t at positions 0 (clean) to 1 (noise) of the model's own time, its timesteps evenly spread."""
        return self.clock.t_of_position(position).float()

    def condition(self, text: Text) -> NamedConditioning:
        """Return what the U-Net attends to for a text, a batch of one."""
        raise NotImplementedError

    def rows(
        self,
        text: Text,
        position: Position,
        guidance_scale: float,
        content_scale: float = 0.0,
    ) -> list[tuple[NamedConditioning, float]]:
        """Return the one row of classifier-free guidance; the model is told nothing of time."""
        return [(self.condition(text), guidance_scale)]

    def null_row(self, negative_prompt: str | None, position: Position) -> NamedConditioning:
        """Return the row of the negative prompt, or of the empty text."""
        return self.condition(negative_prompt or "")

    @torch.no_grad()
    def network(self, latents: Tensor, t: Tensor, conditioning: NamedConditioning) -> Tensor:
        """Predict v of noisy latents (rows, latent_channels, frames) at t (rows, frames)."""
        sample = latents.unflatten(1, (self._channels, self._bins)).transpose(2, 3)  # (rows, channels, frames, bins)
        # A finished frame is shown at the cleanest level that the network knows.
        timesteps = self.clock.timestep_of_t(t).clamp(min=0)
        given = {
            name: tensor.to(sample) if tensor.is_floating_point() else tensor
            for name, tensor in conditioning.tensors.items()
        }
        with autocast_to(self.device, self._precision):
            eps = self._frame_times(sample, timesteps, **({"encoder_hidden_states": None} | given))
        return velocity_from_eps(latents, eps.transpose(2, 3).flatten(1, 2), t)

    @torch.no_grad()
    def mel(self, latents: Tensor) -> Tensor:
        """Decode a clip's latents to log-mel frames (batch, mel frames, mel bins)."""
        sample = latents.unflatten(1, (self._channels, self._bins)).transpose(2, 3)
        return self.vae.decode(sample / self.vae.config.scaling_factor).sample.squeeze(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole clips, each in one window, to audio (batch, 2, samples)."""
        decoder = MelDecoder(self, None)
        return torch.cat((decoder.push(latents), decoder.finish()), dim=-1)

    def decoder(self) -> "MelDecoder":
        """Return a new streamed decoding."""
        return MelDecoder(self, self.windows)

    def prepare(self, precision: Precision = "float32", compile: bool = False) -> None:
        """Choose how `network` computes from now on.

        Raises:
            UserError: it should be compiled, which the hooks that give it a time per frame do not allow.
        """
        if compile:
            raise UserError("published models cannot be compiled: leave out --compile")
        self._precision = precision

    def fingerprint(self) -> str:
        """Return 16 digits that change with any weight."""
        return weights_fingerprint(self)

    def encode(self, audio: Tensor) -> Tensor:
        """Refuse: the published decoders come without the front end that made their spectrograms."""
        raise UserError("this model cannot continue or edit a sound: it has no way from audio to latents")

    def encoder(self) -> Any:
        """Refuse, as `encode`."""
        return self.encode(torch.zeros(0))


class MelDecoder:
    """Latents (batch, latent_channels, frames) in, audio (batch, 2, samples) at 44.1 kHz out.

    Args:
        windows: how the decoder runs over a stream; None decodes all that was pushed at once, when it ends.
    """

    def __init__(self, host: MelHost, windows: WindowConfig | None):
        self._host = host
        self._clip: list[Tensor] = []
        bins, factor = host._bins * host._mel_factor, host._mel_factor
        self._windows = None if windows is None else MelWindows(host.mel, factor, bins, windows)
        self._vocoder = vocoder_stream(host.vocoder)
        self._resampler = ResamplerStream(host.vocoder.config.sampling_rate, SAMPLE_RATE)
        self._num_frames = self._num_samples = 0  # latent frames taken, samples at the vocoder's rate given

    @property
    def context_frames(self) -> tuple[int, int]:
        """Latent frames before and after a frame that its audio depends on."""
        config = self._host.windows
        return config.window_frames, config.new_frames + config.fade_frames + config.edge_frames

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames and return the audio that they complete."""
        self._num_frames += latents.shape[-1]
        if self._windows is None:
            self._clip.append(latents)
            return latents.new_zeros(len(latents), 2, 0)
        return self._audio(self._windows.push(latents), last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the stream: the remaining audio."""
        mel = self._host.mel(torch.cat(self._clip, dim=-1)) if self._windows is None else self._windows.finish()
        return self._audio(mel, last=True)

    def _audio(self, mel: Tensor, last: bool) -> Tensor:
        config = self._host.vocoder.config
        if config.normalize_before:
            mel = (mel - self._host.vocoder.mean) / self._host.vocoder.scale
        wave = self._vocoder.push(mel.transpose(1, 2), last)  # (batch, 1, samples)
        if last:  # the vocoder's first layer makes a few samples more than its frames have
            wave = wave[..., : self._num_frames * self._host._frame_samples - self._num_samples]
        self._num_samples += wave.shape[-1]
        return self._resampler.push(wave.float(), last).expand(-1, 2, -1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        assert self._windows is not None, "a clip that is decoded at once has no state"
        return {
            "windows": self._windows.state_dict(),
            "vocoder": self._vocoder.state(),
            "resampler": self._resampler.state(),
            "num_frames": self._num_frames,
            "num_samples": self._num_samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        assert self._windows is not None
        self._windows.load_state_dict(state["windows"])
        self._vocoder.load_state(state["vocoder"])
        self._resampler.load_state(state["resampler"])
        self._num_frames, self._num_samples = state["num_frames"], state["num_samples"]
