"""Endless latents to log-mel frames by a decoder that pools over time and therefore only knows clips.

    | what this window sees again ...           | new | fade | edge |          a window; fewer frames at first

The decoder (an AutoencoderKL with GroupNorm and attention over time) runs on a sliding window of the last frames. The
last `edge` frames, which its padding reaches, are not used. The `fade` frames before them are held back and mixed
linearly with the next window's: both are estimates of one spectrogram, which one vocoder then turns into one sound, so
that no phases can cancel. A frame is given out `new + fade + edge` frames after it entered at the latest.

Tensors: latents (batch, channels, frames); mel (batch, mel frames, bins), `factor` mel frames a latent frame.

Source: our reading of Liu et al. 2023 (AudioLDM), whose decoder is trained on clips of 10.24 s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a decoder that only knows clips runs over an endless stream; all in latent frames."""

    window_frames: int = 128
    """Frames that the decoder sees at once; best the length it was trained on (256), at twice the cost of 128."""
    new_frames: int = 32
    """Frames that a window brings."""
    fade_frames: int = 8
    """Frames over which two windows are mixed."""
    edge_frames: int = 4
    """Frames at the end of a window that are not used."""

    def __post_init__(self) -> None:
        if min(self.new_frames, self.fade_frames) < 1 or self.edge_frames < 0:
            raise ValueError(
                f"needs new_frames and fade_frames of at least 1 and edge_frames of at least 0, got {self}"
            )
        if self.new_frames + 2 * (self.fade_frames + self.edge_frames) > self.window_frames:
            raise ValueError(f"window_frames must hold the new frames and twice fade and edge, got {self}")


class MelWindows:
    """The stream of windows; `push` and `finish` return the mel frames that are complete.

    Args:
        decode: latents (batch, channels, frames) -> mel (batch, factor * frames, bins).
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], factor: int, num_bins: int, config: WindowConfig):
        self.decode = decode
        self.factor = factor
        self.num_bins = num_bins
        self.config = config
        self._latents: Tensor | None = None  # the last frames: what the next window sees again, then those not decoded
        self._num_pending = 0  # of these, not decoded yet
        self._held: Tensor | None = None  # mel frames of the last window's fade and edge

    def push(self, latents: Tensor) -> Tensor:
        """Take the next latents, any number of frames."""
        self._latents = latents if self._latents is None else torch.cat((self._latents, latents), dim=-1)
        self._num_pending += latents.shape[-1]
        complete = [latents.new_zeros(len(latents), 0, self.num_bins)]
        while self._num_pending >= self._least():
            complete.append(self._next_window(self._least()))
        return torch.cat(complete, dim=1)

    def finish(self) -> Tensor:
        """Return what is left, when no latents follow."""
        assert self._latents is not None, "finish comes after a push"
        parts = [self._next_window(self._num_pending)] if self._num_pending else []
        assert self._held is not None
        return torch.cat((*parts, self._held), dim=1)

    def _least(self) -> int:
        """Frames that the next window waits for."""
        config = self.config
        return config.new_frames + (config.fade_frames + config.edge_frames) * (self._held is None)

    def _next_window(self, num_new: int) -> Tensor:
        """Decode the window that ends `num_new` frames behind the last one's end; its fade and edge stay behind."""
        assert self._latents is not None
        config, factor = self.config, self.factor
        end = self._latents.shape[-1] - self._num_pending + num_new
        start = max(0, end - config.window_frames)
        mel = self.decode(self._latents[..., start:end])
        num_held = (config.fade_frames + config.edge_frames) * factor
        if self._held is not None:
            mel = self._mix(mel[:, -(num_new * factor + self._held.shape[1]) :])
        self._num_pending -= num_new
        self._latents = self._latents[..., start:].clone()
        self._held = mel[:, -num_held:].clone()
        return mel[:, :-num_held]

    def _mix(self, mel: Tensor) -> Tensor:
        """Let the last window's fade turn into this one's."""
        assert self._held is not None
        length = min(self.config.fade_frames * self.factor, self._held.shape[1])
        weight = ((torch.arange(length, device=mel.device) + 0.5) / length)[:, None].to(mel.dtype)
        return torch.cat((torch.lerp(self._held[:, :length], mel[:, :length], weight), mel[:, length:]), dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next frames depend on besides the next latents."""
        return {"latents": self._latents, "num_pending": self._num_pending, "held": self._held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._latents, self._num_pending, self._held = state["latents"], state["num_pending"], state["held"]
