"""The 1-D U-Net that denoises latents, with a noise level per frame.

Four levels of residual convolutions and transformers; down-sampling comes first in a level, so that a level works at
its own width. Unlike the paper's, it takes a noise time per frame: Fourier features are computed per frame, averaged
to a level's stride and only then embedded, and modulate every block per frame; one t for all frames gives what one t
for the clip gives. Any length goes in: it is padded to a multiple of the total stride and cropped again, and padding
frames enter no convolution, norm or attention.

Tensors: latents (batch, latent_channels, frames), t (batch,) or (batch, frames), context (batch, tokens, width).

Source: Evans et al. 2024 (2402.04825), section 3.4; Ho et al. 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.errors import UserError, check_bounds
from models.unet_layers import (
    Downsample,
    FourierFeatures,
    FrameNorm,
    Level,
    NormKind,
    ResidualBlock,
    Transformer,
    Upsample,
    init_layer,
    key_mask,
    mask_frames,
    rotary_angles,
)

SKIP_SCALE = 2**-0.5


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Size of the U-Net; the defaults are the paper's, 907 M parameters."""

    latent_channels: int = 64
    """Channels of the latents."""
    widths: tuple[int, ...] = (1024, 1024, 1280, 1280)
    """Working width of each level."""
    factors: tuple[int, ...] = (1, 2, 2, 4)
    """Time stride on entering each level; their product is the total stride."""
    num_blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention_depths: tuple[int, ...] = (1, 3, 3, 3)
    """Transformer blocks of each level, down and up; 0 for none."""
    bottleneck_depth: int = 3
    """Transformer blocks of the bottleneck; 0 for none."""
    num_heads: int = 16
    """Attention heads at every level."""
    feed_forward_factor: int = 4
    """Width of the transformers' feed-forward layer, as a multiple of the level's width."""
    context_width: int = 768
    """Width of the text and timing tokens."""
    time_width: int = 1024
    """Width of the embedded noise time."""
    num_frequencies: int = 128
    """Learned frequencies in the noise time's Fourier features."""
    global_context: bool = False
    """Whether the mean of the context tokens modulates every block too, as the noise time does, beside cross-attention
    as in the paper: small models obey their text sooner."""
    norm: NormKind = "group"
    """"group": over a group of channels and all frames, as in the paper; "layer": over all channels per frame."""
    num_groups: int = 8
    """Groups of the "group" norm."""

    def __post_init__(self) -> None:
        for name in ("widths", "factors", "attention_depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = {len(self.widths), len(self.factors), len(self.attention_depths)}
        if len(lengths) != 1 or not self.widths:
            raise UserError(
                "widths, factors and attention_depths must have one entry a level, got "
                f"{self.widths}, {self.factors} and {self.attention_depths}"
            )
        for name in ("num_blocks", "num_heads", "num_groups"):
            check_bounds(name, getattr(self, name), 1, 1000)
        check_bounds("bottleneck_depth", self.bottleneck_depth, 0, 1000)
        for name, least in (("widths", 1), ("factors", 1), ("attention_depths", 0)):
            for each in getattr(self, name):
                check_bounds(name, each, least, 100_000 if name == "widths" else 1000)
        bad = [width for width in self.widths if width % (2 * self.num_heads)]
        if bad:
            raise UserError(f"widths must be multiples of 2 * num_heads = {2 * self.num_heads}, got {bad[0]}")

    @property
    def time_stride(self) -> int:
        """Frames per cell of the coarsest level."""
        stride = 1
        for factor in self.factors:
            stride *= factor
        return stride


class LevelBlocks(nn.Module):
    """The two halves of one level: the way down, which leaves skips, and the way up, which takes them."""

    def __init__(self, config: UNetConfig, index: int) -> None:
        super().__init__()
        width = config.widths[index]
        outer = config.widths[max(index - 1, 0)]
        depth = config.attention_depths[index]
        self.downsample = Downsample(outer, width, config.factors[index])
        self.down_blocks = nn.ModuleList(_residual(config, width, width) for _ in range(config.num_blocks))
        self.down_transformer = _transformer(config, width, depth)
        num_skips = config.num_blocks + 1
        self.up_blocks = nn.ModuleList(_residual(config, 2 * width, width) for _ in range(num_skips))
        self.up_transformer = _transformer(config, width, depth)
        self.upsample = Upsample(width, outer, config.factors[index])


class UNet(nn.Module):
    """Predict v from noisy latents, their noise times and the conditioning."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        """Whether to recompute blocks in the backward pass instead of keeping their activations."""
        self.fourier = FourierFeatures(config.num_frequencies)
        self.time_mlp = nn.Sequential(
            nn.Conv1d(self.fourier.num_features, config.time_width, 1),
            nn.SiLU(),
            nn.Conv1d(config.time_width, config.time_width, 1),
            nn.SiLU(),
        )
        self.context_norm = nn.LayerNorm(config.context_width)
        self.context_mlp = _context_mlp(config) if config.global_context else None
        self.conv_in = nn.Conv1d(config.latent_channels, config.widths[0], 3, padding=1)
        self.levels = nn.ModuleList(LevelBlocks(config, index) for index in range(len(config.widths)))
        width = config.widths[-1]
        self.bottleneck = nn.ModuleList(
            [
                _residual(config, width, width),
                _transformer(config, width, config.bottleneck_depth),
                _residual(config, width, width),
            ]
        )
        self.norm_out = FrameNorm(config.widths[0], config.norm, config.num_groups)
        self.conv_out = nn.Conv1d(config.widths[0], config.latent_channels, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start every residual branch as the identity and the output small."""
        self.apply(init_layer)
        for module in self.modules():
            if isinstance(module, ResidualBlock | Transformer):
                module.start_as_identity()
        if self.context_mlp is not None:
            nn.init.zeros_(self.context_mlp.get_parameter("2.weight"))
        nn.init.normal_(self.conv_out.weight, std=0.1 * self.conv_out.weight[0].numel() ** -0.5)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        context: Tensor,
        context_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict v, (batch, latent_channels, frames).

        Args:
            latents: (batch, latent_channels, frames) at noise level t.
            t: (batch,) or (batch, frames), 0 clean ... 1 noise.
            context: (batch, tokens, context_width) text and timing tokens.
            context_mask: (batch, tokens) bool, True = keep; None keeps all.
            frame_mask: (batch, frames) bool, True = real, False = padding; None if all are real.
        """
        frames = latents.shape[-1]
        x, t, mask = self._pad(latents, t, frame_mask)
        levels = self._prepare_levels(x, t, mask, context, context_mask)

        x = self.conv_in(mask_frames(x, mask))
        skips: list[Tensor] = []
        outer_mask = mask
        for blocks, level in zip(self._level_blocks(), levels, strict=True):
            x = blocks.downsample(x, outer_mask)
            for block in blocks.down_blocks:
                x = self._run(block, x, level)
                skips.append(x)
            x = self._run(blocks.down_transformer, x, level)
            skips.append(x)
            outer_mask = level.frame_mask
        for block in self.bottleneck:
            x = self._run(block, x, levels[-1])
        for blocks, level in zip(reversed(self._level_blocks()), reversed(levels), strict=True):
            for block in blocks.up_blocks:
                x = self._run(block, torch.cat([x, skips.pop() * SKIP_SCALE], dim=1), level)
            x = self._run(blocks.up_transformer, x, level)
            x = blocks.upsample(x, level.frame_mask)
        x = F.silu(self.norm_out(x, mask))
        return self.conv_out(mask_frames(x, mask))[..., :frames]

    def _level_blocks(self) -> list[LevelBlocks]:
        return [blocks for blocks in self.levels if isinstance(blocks, LevelBlocks)]

    def _run(self, block: Callable[[Tensor, Level], Tensor], x: Tensor, level: Level) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            out = checkpoint(block, x, level, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x, level)

    def _pad(self, latents: Tensor, t: Tensor, frame_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pad to a multiple of the time stride; returns latents, t (batch, frames or 1), mask (batch, 1, frames)."""
        batch, channels, frames = latents.shape
        if channels != self.config.latent_channels:
            raise ValueError(f"latents must have {self.config.latent_channels} channels, got {channels}")
        if t.ndim == 1:
            t = t[:, None]
        if t.ndim != 2 or t.shape[1] not in (1, frames):
            raise ValueError(f"t must be (batch,) or (batch, frames) = ({batch}, {frames}), got {tuple(t.shape)}")
        if frame_mask is not None:
            latents = latents.masked_fill(~frame_mask[:, None], 0.0)
        padding = -frames % self.config.time_stride
        if padding:
            if frame_mask is None:
                frame_mask = torch.ones(batch, frames, dtype=torch.bool, device=latents.device)
            frame_mask = F.pad(frame_mask, (0, padding))
            latents = F.pad(latents, (0, padding))
            t = F.pad(t, (0, padding)) if t.shape[1] > 1 else t
        return latents, t, None if frame_mask is None else frame_mask[:, None]

    def _modulation(self, features: Tensor, shared: Tensor | None) -> Tensor:
        """Embed a level's noise times, (batch, time_width, frames or 1), and add what the context says to all."""
        time = self.time_mlp[:-1](features)
        return self.time_mlp[-1](time if shared is None else time + shared)

    def _prepare_levels(
        self, x: Tensor, t: Tensor, mask: Tensor | None, context: Tensor, context_mask: Tensor | None
    ) -> list[Level]:
        """Pool t and the mask to every level's stride, and compute what its blocks share."""
        if context_mask is not None:  # a sample with no token at all attends to these zeros
            context = context.masked_fill(~context_mask[..., None], 0.0)
        context, context_keys = self.context_norm(context), key_mask(context_mask)
        shared = None if self.context_mlp is None else self.context_mlp(_mean_token(context, context_mask))[..., None]
        features = self.fourier(t.float())  # (batch, features, frames or 1)
        weight = None if mask is None else mask.float()
        stride = 1
        levels = []
        for factor, width in zip(self.config.factors, self.config.widths, strict=True):
            stride *= factor
            level_features = _pool_frames(features, weight, stride)
            level_mask = None if mask is None else _cells(mask, stride).any(dim=-1)
            levels.append(
                Level(
                    time=self._modulation(level_features, shared),
                    rotary=rotary_angles(x.shape[-1] // stride, width // self.config.num_heads, x.device),
                    frame_mask=level_mask,
                    frame_keys=None if level_mask is None else key_mask(level_mask[:, 0]),
                    context=context,
                    context_keys=context_keys,
                )
            )
        return levels


class _Skip(nn.Module):
    """Stands where a level has no attention."""

    def forward(self, x: Tensor, level: Level) -> Tensor:
        del level
        return x


def _cells(x: Tensor, stride: int) -> Tensor:
    """(batch, channels, frames) to (batch, channels, frames / stride, stride)."""
    return x.unflatten(-1, (x.shape[-1] // stride, stride))


def _pool_frames(features: Tensor, weight: Tensor | None, stride: int) -> Tensor:
    """Average features (batch, features, frames) over cells of stride frames, real ones (weight 1) only."""
    if stride == 1 or features.shape[-1] == 1:
        return features
    if weight is None:
        return _cells(features, stride).mean(dim=-1)
    return _cells(features * weight, stride).sum(dim=-1) / _cells(weight, stride).sum(dim=-1).clamp_min(1)


def _mean_token(context: Tensor, context_mask: Tensor | None) -> Tensor:
    """Average of the tokens that are kept, (batch, width); 0 where there are none."""
    if context_mask is None:
        return context.mean(dim=1)
    keep = context_mask[..., None].to(context.dtype)
    return (context * keep).sum(dim=1) / keep.sum(dim=1).clamp_min(1)


def _context_mlp(config: UNetConfig) -> nn.Sequential:
    width = config.time_width
    return nn.Sequential(nn.Linear(config.context_width, width), nn.SiLU(), nn.Linear(width, width))


def _residual(config: UNetConfig, in_channels: int, out_channels: int) -> ResidualBlock:
    return ResidualBlock(
        in_channels, out_channels, time_width=config.time_width, norm=config.norm, num_groups=config.num_groups
    )


def _transformer(config: UNetConfig, channels: int, depth: int) -> nn.Module:
    if depth == 0:
        return _Skip()
    return Transformer(
        channels,
        depth,
        context_width=config.context_width,
        num_heads=config.num_heads,
        feed_forward_factor=config.feed_forward_factor,
        norm=config.norm,
        num_groups=config.num_groups,
    )
