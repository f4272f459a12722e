"""Blocks of the U-Net: normalisation, residual convolutions, transformers; each takes a noise level per frame.

Tensors inside a level of the U-Net: x (batch, channels, frames) at the level's own frame rate. Frames that are
padding are marked in `Level.frame_mask`; every convolution zeroes them in its input and every norm and attention
leaves them out, so they may hold anything in between.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError

NormKind = Literal["group", "layer"]


class Level(NamedTuple):
    """What the blocks of one level share in one call."""

    time: Tensor
    """Embedded noise time (batch, time_width, frames), or (batch, time_width, 1) if one t holds for the clip."""
    rotary: tuple[Tensor, Tensor]
    """Cosine and sine of the rotary angles, each (frames, head_width)."""
    frame_mask: Tensor | None
    """(batch, 1, frames) bool, True = real; None if all are."""
    frame_keys: Tensor | None
    """The same as a mask of attention keys, from `key_mask`."""
    context: Tensor
    """Normalised text and timing tokens (batch, tokens, context_width)."""
    context_keys: Tensor | None
    """Which tokens are attended to, from `key_mask`; None if all are."""


def mask_frames(x: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Zero the padding frames of x (batch, channels, frames)."""
    return x if frame_mask is None else x * frame_mask


class FrameNorm(nn.Module):
    """Normalise (batch, channels, frames) over real frames only.

    "group": statistics over a group of channels and all frames, as in the paper. "layer": over all channels, frame
    by frame.
    """

    def __init__(self, channels: int, kind: NormKind, num_groups: int) -> None:
        super().__init__()
        if kind not in get_args(NormKind):
            raise UserError(f"norm must be one of {', '.join(get_args(NormKind))}, got {kind!r}")
        if channels % num_groups:
            raise UserError(f"num_groups must divide every width, got {num_groups} groups for {channels} channels")
        self.kind = kind
        self.num_groups = num_groups
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, frame_mask: Tensor | None) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x.transpose(1, 2), self.weight.shape, self.weight, self.bias, self.eps).transpose(1, 2)
        if frame_mask is None:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return self._masked_group_norm(x, frame_mask)

    def _masked_group_norm(self, x: Tensor, frame_mask: Tensor) -> Tensor:
        """Group norm with the statistics of the real frames, in float32 at least."""
        keep = frame_mask.float()  # (batch, 1, frames)
        count = keep.sum(dim=-1, keepdim=True).clamp_min(1)
        centred = x - self._group_mean((x * keep).sum(dim=-1, keepdim=True) / count)
        variance = self._group_mean((centred.square() * keep).sum(dim=-1, keepdim=True) / count)
        gain = torch.rsqrt(variance + self.eps) * self.weight[:, None]
        return torch.addcmul(self.bias[:, None], centred, gain)

    def _group_mean(self, x: Tensor) -> Tensor:
        """Replace each channel's value (batch, channels, 1) by its group's mean."""
        groups = x.unflatten(1, (self.num_groups, -1))  # (batch, groups, channels a group, 1)
        return groups.mean(dim=2, keepdim=True).expand_as(groups).flatten(1, 2)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution; norm, scale and shift from the noise time, SiLU, convolution; plus the input."""

    def __init__(
        self, in_channels: int, out_channels: int, *, time_width: int, norm: NormKind, num_groups: int
    ) -> None:
        super().__init__()
        self.norm_in = FrameNorm(in_channels, norm, num_groups)
        self.conv_in = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Conv1d(time_width, 2 * out_channels, 1)
        self.norm_out = FrameNorm(out_channels, norm, num_groups)
        self.conv_out = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def start_as_identity(self) -> None:
        """Zero the branch's last layer."""
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        mask = level.frame_mask
        h = F.silu(self.norm_in(x, mask))
        h = self.norm_out(self.conv_in(mask_frames(h, mask)), mask)
        scale, shift = self.modulation(level.time).chunk(2, dim=1)  # (batch, out_channels, frames or 1)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return self.skip(x) + self.conv_out(mask_frames(h, mask))


class Downsample(nn.Module):
    """Strided convolution into a level, from in_channels to out_channels."""

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 2 * factor + 1, stride=factor, padding=factor)

    def forward(self, x: Tensor, frame_mask: Tensor | None) -> Tensor:
        """x (batch, in_channels, frames) with its own mask, to frames / factor."""
        return self.conv(mask_frames(x, frame_mask))


class Upsample(nn.Module):
    """Transposed convolution out of a level, from in_channels to out_channels."""

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        if factor == 1:
            self.conv = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        else:
            self.conv = nn.ConvTranspose1d(
                in_channels,
                out_channels,
                2 * factor,
                stride=factor,
                padding=(factor + 1) // 2,
                output_padding=factor % 2,
            )

    def forward(self, x: Tensor, frame_mask: Tensor | None) -> Tensor:
        """x (batch, in_channels, frames) with its own mask, to frames * factor."""
        return self.conv(mask_frames(x, frame_mask))


class SelfAttention(nn.Module):
    """Attention among the frames, with rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (batch, heads, frames, head_width) for x (batch, frames, width)."""
        batch, frames, width = x.shape
        qkv = self.to_qkv(x).view(batch, frames, 3, self.num_heads, width // self.num_heads)
        q, k = apply_rotary(qkv[:, :, :2].permute(2, 0, 3, 1, 4), rotary).unbind(0)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor | None) -> Tensor:
        """Attend; x (batch, frames, width), keys from `key_mask`."""
        q, k, v = self.project(x, rotary)
        return self.to_out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=keys)))


class CrossAttention(nn.Module):
    """Attention from the frames to the text and timing tokens."""

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context_width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, keys: Tensor | None) -> Tensor:
        """Attend; x (batch, frames, width), context (batch, tokens, context_width), keys from `key_mask`."""
        q = split_heads(self.to_q(x), self.num_heads)
        k, v = self.to_kv(context).chunk(2, dim=-1)
        k, v = split_heads(k, self.num_heads), split_heads(v, self.num_heads)
        return self.to_out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=keys)))


class TransformerBlock(nn.Module):
    """Pre-norm residual self-attention, cross-attention and feed-forward on (batch, frames, width)."""

    def __init__(self, width: int, context_width: int, num_heads: int, feed_forward_factor: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, num_heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, context_width, num_heads)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward_factor * width), nn.GELU(), nn.Linear(feed_forward_factor * width, width)
        )

    def forward(self, x: Tensor, level: Level) -> Tensor:
        x = x + self.self_attention(self.norm_self(x), level.rotary, level.frame_keys)
        x = x + self.cross_attention(self.norm_cross(x), level.context, level.context_keys)
        return x + self.feed_forward(self.norm_feed_forward(x))


class Transformer(nn.Module):
    """A residual stack of transformer blocks between two projections on (batch, channels, frames)."""

    def __init__(
        self,
        channels: int,
        depth: int,
        *,
        context_width: int,
        num_heads: int,
        feed_forward_factor: int,
        norm: NormKind,
        num_groups: int,
    ) -> None:
        super().__init__()
        self.norm = FrameNorm(channels, norm, num_groups)
        self.to_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, context_width, num_heads, feed_forward_factor) for _ in range(depth)
        )
        self.to_out = nn.Linear(channels, channels)

    def start_as_identity(self) -> None:
        """Zero the branch's last layer."""
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        h = self.to_in(self.norm(x, level.frame_mask).transpose(1, 2))  # (batch, frames, channels)
        for block in self.blocks:
            h = block(h, level)
        return x + self.to_out(h).transpose(1, 2)


def key_mask(keep: Tensor | None) -> Tensor | None:
    """Attention mask (batch, 1, 1, length) of the keys marked in keep (batch, length); None keeps all.

    Where no key is kept all are: softmax over nothing is NaN. The caller sees to it that they say nothing.
    """
    if keep is None:
        return None
    return (keep | ~keep.any(dim=-1, keepdim=True))[:, None, None, :]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, length, width) to (batch, heads, length, head_width)."""
    batch, length, width = x.shape
    return x.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, head_width) to (batch, length, width)."""
    return x.transpose(1, 2).flatten(2)


def rotary_angles(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, (frames, head_width) float32; the halves pair up.

    Source: Su et al. 2021 (RoPE), base 10,000.
    """
    frequency = 10_000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angle = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos(), angle.sin()


def apply_rotary(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (..., frames, head_width) by its position."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class FourierFeatures(nn.Module):
    """Sine and cosine of t at learned frequencies, and t itself: (batch, frames) to (batch, features, frames)."""

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(num_frequencies))
        self.num_features = 2 * num_frequencies + 1
        if not self.frequency.is_meta:
            with torch.no_grad():  # low enough that near levels look alike, high enough to tell the clean end apart
                self.frequency.copy_(torch.logspace(math.log10(0.25), math.log10(16.0), num_frequencies))

    def forward(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * self.frequency[:, None] * t[:, None, :]
        return torch.cat([phase.sin(), phase.cos(), t[:, None, :]], dim=1)


def init_layer(layer: nn.Module) -> None:
    """Start a convolution or linear layer so that it keeps its input's variance (PyTorch's default keeps a third)."""
    if isinstance(layer, nn.ConvTranspose1d):
        fan_in = layer.in_channels * layer.kernel_size[0] / layer.stride[0]  # taps that meet in one output frame
    elif isinstance(layer, nn.Conv1d | nn.Linear):
        fan_in = layer.weight[0].numel()
    else:
        return
    nn.init.normal_(layer.weight, std=fan_in**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
