"""Classifier-free guidance: a U-Net and its conditioning as one denoiser.

    v = v_unconditional + scale (v_conditional - v_unconditional)

Both predictions come from one batched call; a scale of 1 needs the conditional one alone. A negative prompt takes the
place of the unconditional sequence. Rescaling pulls the standard deviation of the guided prediction, over the channels
of each frame (never over time: an endless stream has no whole), back to that of the conditional one.

Tensors: x, v (batch, channels, frames); t (batch, frames).

Sources: Ho & Salimans 2022, eq. 6; Lin et al. 2024, eq. 14 to 16 (rescale); Kynkäänniemi et al. 2024 (interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.text_files import check_text
from models.errors import UserError
from models.text_to_audio import Conditioning, Seconds, TextToAudio
from models.unet import UNet


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How strongly the prompt pulls."""

    scale: float = 6.0
    """Guidance scale: unconditional + scale * (conditional - unconditional); 1 switches guidance off."""
    rescale: float = 0.0
    """Share, 0 to 1, of the rescaling that undoes the growth of the prediction's standard deviation."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise times between which guidance acts; outside of it the conditional prediction is taken."""

    def __post_init__(self):
        low, high = self.interval
        object.__setattr__(self, "interval", (float(low), float(high)))
        if not 0 <= self.scale < float("inf"):
            raise UserError(f"guidance scale must be a finite number of at least 0, got {self.scale}")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"guidance rescale must lie in [0, 1], got {self.rescale}")
        if not 0 <= low < high <= 1:
            raise UserError(f"guidance interval must be two rising noise times in [0, 1], got {self.interval}")


class GuidedDenoiser:
    """A denoiser (x, t) -> v for one conditioning per sample.

    Args:
        conditional: the prompts, batch B.
        unconditional: the null sequence or the negative prompts, batch B.
        frame_scale: a guidance scale for each frame, (frames,) or (batch, frames), in place of the configuration's.
    """

    def __init__(
        self,
        unet: UNet,
        conditional: Conditioning,
        unconditional: Conditioning,
        config: GuidanceConfig,
        frame_scale: Tensor | None = None,
    ):
        self.unet = unet
        self.config = config
        self.frame_scale = frame_scale
        self.is_guided = config.scale != 1 or frame_scale is not None
        self.conditioning = conditional.cat(unconditional) if self.is_guided else conditional

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        conditioning = self.conditioning
        if not self.is_guided:
            return self.unet(x, t, conditioning.context, conditioning.context_mask)
        twice = torch.cat((x, x)), torch.cat((t, t))
        v = self.unet(*twice, conditioning.context, conditioning.context_mask)  # (2 batch, channels, frames)
        conditional, unconditional = v.chunk(2)
        return guide(conditional, unconditional, self._scale(t), self.config.rescale)

    def _scale(self, t: Tensor) -> Tensor | float:
        """The scale of each frame, (batch, frames), or one number where all are alike."""
        scale = self.config.scale if self.frame_scale is None else self.frame_scale
        low, high = self.config.interval
        if (low, high) == (0.0, 1.0):
            return scale
        return torch.where((t >= low) & (t <= high), scale, 1.0)


@torch.no_grad()
def prompt_denoiser(
    model: TextToAudio,
    prompts: Sequence[str],
    config: GuidanceConfig,
    *,
    negative_prompt: str | None = None,
    seconds_start: Seconds = None,
    seconds_total: Seconds = None,
) -> GuidedDenoiser:
    """Build the denoiser of a batch of prompts; the text is encoded once.

    Args:
        negative_prompt: what to move away from, in place of the null sequence.
        seconds_start, seconds_total: as in `TextToAudio.condition`, None where not known.

    Raises:
        UserError: a prompt is empty, or seconds are outside of the model's range.
    """
    for prompt in prompts:
        check_prompt(prompt)
    conditional = model.condition(prompts, seconds_start, seconds_total)
    if negative_prompt and config.scale != 1:
        unconditional = model.condition([negative_prompt] * len(prompts), seconds_start, seconds_total)
    else:
        unconditional = model.null_condition(len(prompts))
    return GuidedDenoiser(model.unet, conditional, unconditional, config)


def check_prompt(prompt: str) -> None:
    """Refuse a prompt without a word, or with what is no character."""
    check_text(prompt, "the prompt")
    if not prompt.strip():
        raise UserError('the prompt is empty, describe a sound: --prompt "heavy rain with distant thunder"')


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor | float, rescale: float = 0.0) -> Tensor:
    """Combine two predictions (batch, channels, frames).

    Args:
        scale: a number, or one for each frame, (frames,) or (batch, frames).
        rescale: 0 leaves the guided prediction as it is, 1 gives each frame the conditional one's standard deviation.
    """
    if isinstance(scale, Tensor):
        scale = scale.unsqueeze(-2)  # (batch, 1, frames)
    guided = unconditional + scale * (conditional - unconditional)
    if rescale:
        growth = conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True).clamp(min=1e-8)
        guided = guided * (1 + rescale * (growth - 1))
    return guided
