"""Exact streaming of the VAE: chunks in, chunks out, the same numbers as the whole piece at once.

Every operation of the VAE is local in time, so a long piece can be processed in chunks at constant memory. Each
layer keeps the few last inputs that its next outputs still need; zero padding happens at the true ends only, and a
strided layer keeps its phase across chunks. An output is given out as soon as all of its inputs are there, so the
stream lags behind its input by the right half of the receptive field, which `input_span` derives from the layers.

Tensors: audio (batch, channels, samples), latents (batch, latent channels, frames), 1 frame = `vae.hop_length` samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.vae_waveform import ResidualUnit, Snake

if TYPE_CHECKING:
    from models.vae import VAE, Posterior


class LayerStream(ABC):
    """One layer of a network, with the state that carries it from chunk to chunk."""

    carried: tuple[str, ...] = ()
    """Names of the attributes that are this state; tensors among them are replaced, never written to."""

    def inner(self) -> Sequence["LayerStream"]:
        """The layers that this one is made of."""
        return ()

    def state(self) -> list[Any]:
        """Return what the next outputs depend on besides the next inputs."""
        return [[getattr(self, name) for name in self.carried], [layer.state() for layer in self.inner()]]

    def load_state(self, state: list[Any]) -> None:
        """Go on where `state` was taken."""
        for name, value in zip(self.carried, state[0], strict=True):
            setattr(self, name, value)
        for layer, inner_state in zip(self.inner(), state[1], strict=True):
            layer.load_state(inner_state)

    @abstractmethod
    def push(self, x: Tensor, last: bool) -> Tensor:
        """Take the next inputs and return the outputs they complete.

        Args:
            x: the next inputs, any number from 0, (batch, channels, length).
            last: nothing follows; the layer pads its right end and returns all that is left.
        """

    @abstractmethod
    def input_span(self, first: int, last: int) -> tuple[int, int]:
        """First and last input position that outputs `first` to `last` (inclusive) depend on."""


@runtime_checkable
class Streamable(Protocol):
    """A module that knows its own streamed form."""

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        ...


class PointwiseLayer(nn.Module):
    """Base of modules that treat every time step alike and alone, which need no other streamed form."""


class PointwiseStream(LayerStream):
    """A layer that treats every time step alike and alone: it needs no state."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def push(self, x: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return self.layer(x) if x.shape[-1] else self.layer(pad(x, 1))[..., :0]

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        return first, last


class WindowStream(LayerStream):
    """A layer of windows at a stride, such as a convolution, that keeps the inputs its next window starts with.

    Args:
        apply: the layer without its padding, (batch, channels, length) -> (batch, out_channels, windows).
        reach: inputs from the first to the last of a window.
    """

    carried = ("kept",)

    def __init__(self, apply: Callable[[Tensor], Tensor], reach: int, stride: int, padding: int) -> None:
        if stride > reach:
            raise ValueError(f"a streamed layer may skip no input, got stride {stride} > {reach}")
        self.apply = apply
        self.reach, self.stride, self.padding = reach, stride, padding
        self.kept: Tensor | None = None  # (batch, channels, fewer than reach)

    def push(self, x: Tensor, last: bool) -> Tensor:
        if self.reach > 1 or self.padding:
            parts = [pad(x, self.padding) if self.kept is None else self.kept, x]
            x = torch.cat((*parts, pad(x, self.padding)) if last else parts, dim=-1)
        num_outputs = (x.shape[-1] - self.reach) // self.stride + 1
        self.kept = x[..., max(num_outputs, 0) * self.stride :].clone()
        if num_outputs <= 0:
            return self.apply(pad(x, self.reach))[..., :0]
        return self.apply(x)

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        start = first * self.stride - self.padding
        return start, last * self.stride - self.padding + self.reach - 1


def conv_stream(conv: nn.Conv1d) -> WindowStream:
    """Build the streamed form of a convolution."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(f"a streamed convolution needs zero padding of a given width, got {conv}")
    weight, bias, stride, dilation = conv.weight.detach(), conv.bias, conv.stride[0], conv.dilation[0]
    reach = dilation * (conv.kernel_size[0] - 1) + 1

    def apply(x: Tensor) -> Tensor:
        return F.conv1d(x, weight, bias, stride, 0, dilation, conv.groups)

    return WindowStream(apply, reach, stride, int(conv.padding[0]))


def pool_stream(pool: nn.AvgPool1d) -> WindowStream:
    """Build the streamed form of average pooling without padding."""
    (reach,), (stride,), (padding,) = (cast(tuple[int], size) for size in (pool.kernel_size, pool.stride, pool.padding))
    if padding or pool.ceil_mode:
        raise ValueError(f"streamed pooling takes no padding, got {pool}")
    return WindowStream(pool, reach, stride, 0)


class ConvTransposeStream(LayerStream):
    """A transposed convolution that keeps the inputs whose outputs still overlap with later ones.

    Positions below count the outputs before cropping by `padding`: input i reaches i * stride ... + kernel - 1.
    """

    carried = ("kept", "num_inputs", "position")

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int, padding: int, output_padding: int = 0, groups: int = 1
    ) -> None:
        self.weight, self.bias, self.groups = weight.detach(), bias, groups
        self.kernel, self.stride = weight.shape[-1], stride
        self.padding, self.output_padding = padding, output_padding
        if self.kernel < stride:
            raise ValueError(f"a streamed transposed convolution needs kernel >= stride, got {self.kernel} < {stride}")
        self.num_kept = math.ceil(self.kernel / self.stride) - 1
        self.kept: Tensor | None = None  # (batch, channels, at most num_kept)
        self.num_inputs = 0
        self.position = self.padding  # of the next output

    def push(self, x: Tensor, last: bool) -> Tensor:
        self.num_inputs += x.shape[-1]
        if self.kept is not None:
            x = torch.cat((self.kept, x), dim=-1)
        self.kept = x[..., max(x.shape[-1] - self.num_kept, 0) :].clone()
        end = self.num_inputs * self.stride
        if last:
            end += self.kernel - self.stride - self.padding + self.output_padding
        if end <= self.position or x.shape[-1] == 0:
            return x.new_empty(x.shape[0], self.weight.shape[1] * self.groups, 0)
        origin = (self.num_inputs - x.shape[-1]) * self.stride
        output_padding = self.output_padding if last else 0
        x = F.conv_transpose1d(x, self.weight, self.bias, self.stride, 0, output_padding, self.groups)
        x = x[..., self.position - origin : end - origin]
        self.position = end
        return x

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        start = -((self.kernel - 1 - self.padding - first) // self.stride)
        return start, (last + self.padding) // self.stride


def conv_transpose_stream(conv: nn.ConvTranspose1d) -> ConvTransposeStream:
    """Build the streamed form of a transposed convolution."""
    if conv.dilation != (1,):
        raise ValueError(f"a streamed transposed convolution needs dilation 1, got {conv}")
    (stride,), (padding,), (output_padding,) = conv.stride, conv.padding, conv.output_padding
    return ConvTransposeStream(conv.weight, conv.bias, stride, int(padding), output_padding, conv.groups)


class ChainStream(LayerStream):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[LayerStream]) -> None:
        self.layers = list(layers)

    def inner(self) -> Sequence[LayerStream]:
        return self.layers

    def push(self, x: Tensor, last: bool) -> Tensor:
        for layer in self.layers:
            x = layer.push(x, last)
        return x

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        for layer in reversed(self.layers):
            first, last = layer.input_span(first, last)
        return first, last


class ResidualStream(LayerStream):
    """x + branch(x): the skip waits until the branch has caught up. The branch keeps the length."""

    carried = ("waiting",)

    def __init__(self, branch: LayerStream) -> None:
        self.branch = branch
        self.waiting: Tensor | None = None

    def inner(self) -> Sequence[LayerStream]:
        return (self.branch,)

    def push(self, x: Tensor, last: bool) -> Tensor:
        y = self.branch.push(x, last)
        if self.waiting is not None:
            x = torch.cat((self.waiting, x), dim=-1)
        num_ready = y.shape[-1]
        self.waiting = x[..., num_ready:].clone()
        return x[..., :num_ready] + y

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        start, end = self.branch.input_span(first, last)
        return min(start, first), max(end, last)


class SumStream(LayerStream):
    """The sum of several layers' outputs: those of the faster ones wait."""

    carried = ("waiting",)

    def __init__(self, layers: Iterable[LayerStream]) -> None:
        self.layers = list(layers)
        self.waiting: list[Tensor] | None = None

    def inner(self) -> Sequence[LayerStream]:
        return self.layers

    def push(self, x: Tensor, last: bool) -> Tensor:
        outputs = [layer.push(x, last) for layer in self.layers]
        if self.waiting is not None:
            outputs = [torch.cat(pair, dim=-1) for pair in zip(self.waiting, outputs, strict=True)]
        num_ready = min(output.shape[-1] for output in outputs)
        self.waiting = [output[..., num_ready:].clone() for output in outputs]
        return reduce(torch.add, (output[..., :num_ready] for output in outputs))

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        starts, ends = zip(*(layer.input_span(first, last) for layer in self.layers), strict=True)
        return min(starts), max(ends)


def layer_stream(layer: nn.Module) -> LayerStream:
    """Build the streamed form of a layer, or of a whole stack of layers.

    Raises:
        ValueError: no exact streamed form of this layer is known.
    """
    if isinstance(layer, Streamable):
        return layer.streamed()
    if isinstance(layer, nn.Sequential):
        return ChainStream([layer_stream(inner) for inner in layer])
    if isinstance(layer, ResidualUnit):
        return ResidualStream(layer_stream(layer.block))
    if isinstance(layer, nn.Conv1d):
        return conv_stream(layer)
    if isinstance(layer, nn.ConvTranspose1d):
        return conv_transpose_stream(layer)
    if isinstance(layer, nn.AvgPool1d):
        return pool_stream(layer)
    if isinstance(layer, Snake | nn.Tanh | PointwiseLayer):
        return PointwiseStream(layer)
    raise ValueError(f"no exact streaming of {type(layer).__name__} is known; it must be local in time")


class StreamingDecoder:
    """Latents in, the audio they complete out: joined, it is `vae.decode` of all latents.

    One object is one stream. The weights are taken as they are when it is built.
    """

    def __init__(self, vae: "VAE") -> None:
        self.vae = vae
        self._layers = layer_stream(vae.decoder)
        first, last = self._layers.input_span(0, vae.hop_length - 1)
        self.context_frames = (-first, last)
        """Latent frames before and after a frame that its audio depends on; the second is the stream's lag."""
        self._empty = vae.latent_mean.new_empty(1, vae.config.latent_channels, 0)

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames: (batch, latent_channels, frames >= 0) -> (batch, audio_channels, samples >= 0)."""
        self._empty = latents[..., :0]
        return self._layers.push(self.vae.denormalise(latents), last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the stream: the remaining audio, (batch, audio_channels, samples >= 0)."""
        return self._layers.push(self._empty, last=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        return {"empty": self._empty, "layers": self._layers.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, of a decoder of the same shape."""
        self._empty = state["empty"]
        self._layers.load_state(state["layers"])


class StreamingEncoder:
    """Audio in, the latents it completes out: joined, they are `vae.posterior` of all audio.

    One object is one stream. The weights are taken as they are when it is built.
    """

    def __init__(self, vae: "VAE") -> None:
        self.vae = vae
        self._layers = layer_stream(vae.encoder)
        first, last = self._layers.input_span(0, 0)
        self.context_samples = (-first, last - vae.hop_length + 1)
        """Samples before and after a frame's own that it depends on; the second is the stream's lag."""
        self._empty = vae.latent_mean.new_empty(1, vae.config.audio_channels, 0)
        self._num_samples = 0

    @torch.no_grad()
    def push(self, audio: Tensor) -> "Posterior":
        """Take the next samples, (batch, 2 or audio_channels, samples >= 0), and return frames >= 0 of latents."""
        audio = self.vae.from_stereo(audio)
        self._empty = audio[..., :0]
        self._num_samples += audio.shape[-1]
        return self._posterior(self._layers.push(audio, last=False))

    @torch.no_grad()
    def finish(self) -> "Posterior":
        """End the stream, padding the last frame with silence: the remaining normalised latents."""
        missing = -self._num_samples % self.vae.hop_length
        return self._posterior(self._layers.push(pad(self._empty, missing), last=True))

    def _posterior(self, parameters: Tensor) -> "Posterior":
        return self.vae.normalise(self.vae.raw_posterior_of(parameters))


def pad(x: Tensor, length: int) -> Tensor:
    """Zeros like `x`, of another length."""
    return x.new_zeros(*x.shape[:-1], length)
