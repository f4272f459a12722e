"""Noise times for diffusion training: a mixture of one level per clip and the ramps of endless generation.

Each sample of a batch draws one kind of noise:

    uniform      one t for the clip, stratified over the batch and the ranks (the paper's training)
    ramp         context frames, then a queue of chunks, each noisier than the one before, at a random phase
    preroll      the same queue while it fills, from nothing or from pure noise, or drains towards an ending
    independent  one t per chunk, sorted or not

Chunk j = 0 ... N - 1 of a queue at phase d in (0, 1] stands at g((j + d) / N), g the identity or a curved warp: d = 1
just after a shift, d = 1/s before the last of s calls. Context frames get one t in (0, context_max_t) and no loss.

A sample with a queue is as long as the queue is in generation, or as the crop where that is shorter; one with one
level is the whole crop.

A share of the queues is spliced: what stands before one of their chunks is another clip, without loss. An endless
stream meets that where a cue changes the text, and where it has drifted from what its text says: the network learns to
follow the text then, not what came before.
Tensors: t (batch, frames); loss_mask and present (batch, frames) bool; window and cut (batch,).

Source: Ruhe et al. 2024 (Rolling Diffusion), Chen et al. 2024 (Diffusion Forcing).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from models.errors import UserError
from models.schedule import Focus, warp

GOLDEN_RATIO = (1 + 5**0.5) / 2
KINDS = ("uniform", "ramp", "preroll", "independent")


@dataclass(frozen=True, kw_only=True)
class NoiseLevelConfig:
    """The mixture and the queue it trains for."""

    uniform: float = 0.45
    """Share of samples with one level per clip; 1 is the paper's training. The shares are weights: any sum works."""
    ramp: float = 0.35
    """Share of samples with context and a full queue."""
    preroll: float = 0.10
    """Share of samples with a queue that fills or drains."""
    independent: float = 0.10
    """Share of samples with a level of its own for each chunk; half of them sorted, clean to noise."""
    shift: float = 1.0
    """How far the one level of a clip, and the filling of a queue, lean towards noise; 1: evenly spread (`shift`)."""
    context_frames: int = 32
    """Finished frames in front of the queue (K)."""
    num_chunks: int = 10
    """Chunks in the queue (N)."""
    chunk_frames: int = 16
    """Frames of a chunk (c); a multiple of the U-Net's time stride gives each coarse cell one level."""
    context_max_t: float = 0.05
    """Largest noise time of the context frames."""
    splice: float = 0.1
    """Share of the queues (ramp, preroll) in front of which another clip stands."""
    micro_steps: int = 0
    """Network calls per shift of the deployed queue (s), to train on exactly its phases; 0 for any phase."""
    focuses: tuple[Focus, ...] = ("equal", "initial", "middle", "last")
    """Curves of the ramp, one drawn per sample; ("equal",) for none."""
    max_factor: float = 3.0
    """A curve's factor is drawn between 1 and this."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "focuses", tuple(self.focuses))
        shares = self.shares
        if min(shares) < 0 or sum(shares) <= 0:
            raise UserError(f"shares must not be negative and not all 0, got {dict(zip(KINDS, shares, strict=True))}")
        if self.context_frames < 0 or self.num_chunks < 1 or self.chunk_frames < 1 or self.micro_steps < 0:
            raise UserError(
                "needs context_frames >= 0, num_chunks >= 1, chunk_frames >= 1 and micro_steps >= 0, got "
                f"{self.context_frames}, {self.num_chunks}, {self.chunk_frames} and {self.micro_steps}"
            )
        if not 0 <= self.context_max_t < 1:
            raise UserError(f"context_max_t must be in [0, 1), got {self.context_max_t}")
        if self.shift < 1:
            raise UserError(f"shift must be at least 1, got {self.shift:g}")
        if not 0 <= self.splice <= 1:
            raise UserError(f"splice must be in [0, 1], got {self.splice}")
        if not self.focuses or self.max_factor < 1:
            raise UserError(f"needs a focus and max_factor >= 1, got {self.focuses} and {self.max_factor}")

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the mixture in the order of `KINDS`."""
        return (self.uniform, self.ramp, self.preroll, self.independent)

    @property
    def queue_frames(self) -> int:
        """Frames that the network sees of the full queue: context and chunks."""
        return self.context_frames + self.num_chunks * self.chunk_frames


class NoiseLevels(NamedTuple):
    """One draw for a batch."""

    t: Tensor
    """(batch, frames) noise times."""
    loss_mask: Tensor
    """(batch, frames) bool, False on context frames, before the cut and on those that are not present."""
    present: Tensor
    """(batch, frames) bool, False on frames behind the sample's window and on those that no chunk of a filling queue
    has reached; hide them like padding."""
    window: Tensor
    """(batch,) frames of each sample, from the first on."""
    kind: Tensor
    """(batch,) index into `KINDS`."""
    cut: Tensor
    """(batch,) frames at the beginning that are to be another clip's; mostly 0."""


def sample_noise_levels(
    frames: int,
    shared: Generator,
    generators: Sequence[Generator],
    config: NoiseLevelConfig,
    *,
    rank: int = 0,
    num_ranks: int = 1,
) -> NoiseLevels:
    """Draw the noise times of one rank's share of a training batch, on the CPU.

    Kinds, and the strata of the uniform t, are spread over the global batch: they are the same whatever number of
    processes it is divided among.

    Args:
        frames: length of the crops.
        shared: draws what concerns the global batch; in the same state on every rank.
        generators: one for each sample of this rank.
        rank, num_ranks: this process among those that share the step.
    """
    batch = len(generators)
    kind = _sample_kinds(batch * num_ranks, config, shared)
    is_uniform = kind == KINDS.index("uniform")
    uniform_t = torch.zeros(len(kind))
    uniform_t[is_uniform] = shift(_stratified(int(is_uniform.sum()), shared), config.shift)
    mine = slice(rank * batch, (rank + 1) * batch)
    kind, uniform_t, is_uniform = kind[mine], uniform_t[mine], is_uniform[mine]
    t = uniform_t[:, None].repeat(1, frames)
    window = torch.where(is_uniform, frames, min(frames, config.queue_frames))
    present = torch.arange(frames) < window[:, None]
    loss_mask = present.clone()
    cut = torch.zeros(batch, dtype=torch.long)
    for index, generator in enumerate(generators):
        name, length = KINDS[int(kind[index])], int(window[index])
        if name == "independent":
            t[index, :length] = _independent_levels(length, config, generator)
        elif name != "uniform":
            draw_queue = _draw_ramp if name == "ramp" else _draw_preroll
            queue = draw_queue(length, config, generator)
            t[index, :length], loss_mask[index, :length], present[index, :length] = _queue_times(
                length, queue, config, generator
            )
            if _uniform(generator) < config.splice:
                first_border = queue.first_frame % config.chunk_frames or config.chunk_frames
                borders = range(first_border, int(present[index].sum()), config.chunk_frames)
                cut[index] = borders[_integer(0, len(borders) - 1, generator)] if borders else 0
    loss_mask &= present & (torch.arange(frames) >= cut[:, None])
    return NoiseLevels(t, loss_mask, present, window, kind, cut)


def crop(
    latents: Tensor, frame_mask: Tensor, window: Tensor, generators: Sequence[Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Move a random window of each clip to its beginning.

    Args:
        latents: (batch, channels, frames).
        frame_mask: (batch, frames) bool, True = real; the first frames of a clip are.
        window: (batch,) frames that are kept in view; what lies behind them comes to no use.
        generators: one for each sample.

    Returns:
        Latents and mask so moved, and the frame (batch,) that each window begins at.
    """
    frames = latents.shape[-1]
    start = torch.zeros_like(window)
    cropped = (window < frames).nonzero()[:, 0].tolist()
    if not cropped:
        return latents, frame_mask, start.to(latents.device)
    num_real = frame_mask.sum(dim=1).tolist()
    for index in cropped:
        start[index] = _integer(0, max(0, num_real[index] - int(window[index])), generators[index])
    start = start.to(latents.device)
    source = (torch.arange(frames, device=latents.device) + start[:, None]) % frames  # (batch, frames)
    moved = latents.gather(2, source[:, None].expand_as(latents))
    return moved, frame_mask.gather(1, source), start


def shift(position: Tensor, factor: float) -> Tensor:
    """Lean times, 0 ... 1, towards noise: factor t / (1 + (factor - 1) t); half end above factor / (factor + 1).

    Source: Esser et al. 2024 (Stable Diffusion 3), section 5.3.2.
    """
    return factor * position / (1 + (factor - 1) * position)


def splice(latents: Tensor, frame_mask: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Put the neighbour's frames, of two clips each of which is the other's, before each clip's cut.

    Args:
        latents: (batch, channels, frames). The last clip of an odd batch keeps its own frames.
        frame_mask: (batch, frames) bool.
        cut: (batch,) frames to be replaced.
    """
    batch, _, frames = latents.shape
    neighbour = torch.arange(batch, device=latents.device) ^ 1
    neighbour[neighbour >= batch] = batch - 1
    replaced = torch.arange(frames, device=latents.device) < cut[:, None]
    latents = torch.where(replaced[:, None], latents[neighbour], latents)
    return latents, torch.where(replaced, frame_mask[neighbour], frame_mask)


class _Queue(NamedTuple):
    """Where a queue stands in the training window."""

    first_frame: int
    """Frame at which chunk 0 begins; those before are context, and a negative one cuts chunks off."""
    lag: int
    """Slots by which the queue is behind a full one: chunk j stands where chunk j + lag would."""
    is_growing: bool = False
    """Whether chunks join one by one, as `infer.fifo` starts, rather than wait in the window as pure noise."""


def _draw_ramp(frames: int, config: NoiseLevelConfig, generator: Generator) -> _Queue:
    """Place a full queue; a window that is shorter shows a part of it."""
    hidden = (config.queue_frames - frames) // config.chunk_frames  # whole chunks, so that the stride's phase stays
    return _Queue(config.context_frames - _integer(0, hidden, generator) * config.chunk_frames, lag=0)


def _draw_preroll(frames: int, config: NoiseLevelConfig, generator: Generator) -> _Queue:
    """Draw a queue that fills, after no context or some, or one that drains at the window's end."""
    if _integer(0, 1, generator):
        chunks_of_context = _integer(0, 1, generator) * _integer(
            0, config.context_frames // config.chunk_frames, generator
        )
        place = shift(torch.rand((), generator=generator), config.shift)  # may round to 1
        lag = min(int(config.num_chunks * place), config.num_chunks - 1)
        is_growing = bool(_integer(0, 1, generator))
        return _Queue(chunks_of_context * config.chunk_frames, lag, is_growing)
    chunks_left = _integer(1, min(config.num_chunks, max(1, frames // config.chunk_frames)), generator)
    return _Queue(max(0, frames - chunks_left * config.chunk_frames), lag=0)


def _queue_times(
    frames: int, queue: _Queue, config: NoiseLevelConfig, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, loss mask and presence, each (frames,), of a queue at a random phase and curve."""
    phase = 1 - _uniform(generator)  # (0, 1]
    if config.micro_steps:
        phase = _integer(1, config.micro_steps, generator) / config.micro_steps
    focus = config.focuses[_integer(0, len(config.focuses) - 1, generator)]
    factor = 1 + (config.max_factor - 1) * _uniform(generator)
    chunk = torch.div(torch.arange(frames) - queue.first_frame, config.chunk_frames, rounding_mode="floor")
    position = ((chunk + queue.lag + phase) / config.num_chunks).clamp(0, 1)
    in_queue = chunk >= 0
    context_t = config.context_max_t * _uniform(generator)
    t = torch.where(in_queue, warp(position, focus, factor), context_t)
    has_joined = chunk + queue.lag < config.num_chunks
    return t, in_queue, has_joined if queue.is_growing else torch.ones_like(has_joined)


def _independent_levels(frames: int, config: NoiseLevelConfig, generator: Generator) -> Tensor:
    """Return one uniform t per chunk, (frames,), sorted half of the time."""
    t = torch.rand(-(-frames // config.chunk_frames), generator=generator)
    if _integer(0, 1, generator):
        t = t.sort().values
    return t.repeat_interleave(config.chunk_frames)[:frames]


def _sample_kinds(batch: int, config: NoiseLevelConfig, generator: Generator) -> Tensor:
    """Draw a kind per sample, (batch,), so that a batch, and each rank's part of it, hold the shares nearly.

    Kinds cost differently, and ranks wait for each other. Multiples of the golden ratio spread any run of them evenly.
    """
    shares = torch.tensor(config.shares, dtype=torch.float64)
    first, within = torch.rand(2, generator=generator, dtype=torch.float64)
    spread = (torch.arange(batch, dtype=torch.float64) * GOLDEN_RATIO + first) % 1
    place = (spread.argsort().argsort().roll(_integer(0, batch - 1, generator)) + within) / batch
    inner_edges = (shares.cumsum(0) / shares.sum())[:-1]
    kind = torch.bucketize(place, inner_edges, right=True)
    return torch.where(shares[kind] > 0, kind, shares.argmax())  # where rounding put a draw on an empty share


def _stratified(count: int, generator: Generator) -> Tensor:
    """Draw count times in [0, 1), one in each of as many strata, in random order."""
    stratum = torch.randperm(count, generator=generator)
    return (stratum + torch.rand(count, generator=generator)) / max(1, count)


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: Generator) -> int:
    """Draw a whole number, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
