"""Noise times for diffusion training: a mixture of one level per clip and the ramps of endless generation.

Each sample of a batch draws one kind of noise:

    uniform      one t for the clip, stratified over the batch and the ranks (the paper's training)
    ramp         context frames, then a queue of chunks, each noisier than the one before, before any call of a shift
    preroll      the same queue while it fills, from nothing or from pure noise, or drains towards an ending
    independent  one t per chunk, sorted or not

Queues are those that the model is to be played with (`models.queue`), one drawn for each sample; their noise times are
`queue_times` of an even or curved grid, which the player uses too. Context frames get one t in (0, context_max_t) and
no loss.

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

from models.errors import UserError, check_bounds
from models.queue import QueueConfig, queue_times
from models.schedule import Focus, time_grid

GOLDEN_RATIO = (1 + 5**0.5) / 2
KINDS = ("uniform", "ramp", "preroll", "independent")


@dataclass(frozen=True, kw_only=True)
class NoiseLevelConfig:
    """The mixture, of whatever queues the model has."""

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
    queue_weights: tuple[float, ...] = ()
    """How often each of the model's queues is drawn, relative to each other; none: all alike."""
    context_max_t: float = 0.05
    """Largest noise time of the context frames."""
    splice: float = 0.1
    """Share of the queues (ramp, preroll) in front of which another clip stands."""
    focuses: tuple[Focus, ...] = ("equal", "initial", "middle", "last")
    """Curves of the ramp, one drawn per sample; ("equal",) for none."""
    max_factor: float = 3.0
    """A curve's factor is drawn between 1 and this."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "focuses", tuple(self.focuses))
        object.__setattr__(self, "queue_weights", tuple(self.queue_weights))
        for name in KINDS:
            check_bounds(f"noise: {name}", getattr(self, name), 0, 1e6)
        if sum(self.shares) <= 0:
            raise UserError(f"noise: at least one of {', '.join(KINDS)} must be above 0")
        for weight in self.queue_weights:
            check_bounds("noise: queue_weights", weight, 0, 1e6)
        check_bounds("noise: context_max_t", self.context_max_t, 0, 0.99)
        check_bounds("noise: shift", self.shift, 1, 1e9)
        check_bounds("noise: splice", self.splice, 0, 1)
        check_bounds("noise: max_factor", self.max_factor, 1, 100)
        if not self.focuses:
            raise UserError("noise: focuses must name at least one curve, equal for none")

    def check_queues(self, queues: Sequence[QueueConfig]) -> None:
        """Refuse weights that are not one for each queue.

        Raises:
            UserError: they are not, or all are 0.
        """
        if self.queue_weights and (len(self.queue_weights) != len(queues) or sum(self.queue_weights) <= 0):
            raise UserError(
                f"noise: queue_weights must be one for each of the {len(queues)} model.queues, not all 0, "
                f"got {self.queue_weights}"
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the mixture in the order of `KINDS`."""
        return (self.uniform, self.ramp, self.preroll, self.independent)


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
    queues: Sequence[QueueConfig],
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
        queues: those of the model.
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
    window = torch.full((batch,), frames)
    loss_mask = torch.ones(batch, frames, dtype=torch.bool)
    present = loss_mask.clone()
    cut = torch.zeros(batch, dtype=torch.long)
    for index in (~is_uniform).nonzero()[:, 0].tolist():
        queue = _draw_queue(queues, config, generators[index])
        window[index] = length = min(frames, queue.window_frames)
        present[index, length:] = False
        sample = _draw_sample(KINDS[int(kind[index])], length, queue, config, generators[index])
        t[index, :length], loss_mask[index, :length], present[index, :length], cut[index] = sample
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


class _Place(NamedTuple):
    """Where a queue stands in the training window."""

    first_frame: int
    """Frame at which chunk 0 begins; those before are context, and a negative one cuts chunks off."""
    lag: int = 0
    """Chunks that are missing in front of a filling queue."""
    is_growing: bool = False
    """Whether chunks join one by one, as `infer.fifo` starts, rather than wait in the window as pure noise."""


def _draw_queue(queues: Sequence[QueueConfig], config: NoiseLevelConfig, generator: Generator) -> QueueConfig:
    """Draw one of the model's queues."""
    if len(queues) == 1:
        return queues[0]
    weights = torch.tensor(config.queue_weights or (1.0,) * len(queues))
    return queues[int(torch.multinomial(weights, 1, generator=generator))]


def _draw_sample(
    kind: str, frames: int, queue: QueueConfig, config: NoiseLevelConfig, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return t, loss mask and presence, each (frames,), and the cut, of a sample of a kind that shows a queue."""
    if kind == "independent":
        everywhere = torch.ones(frames, dtype=torch.bool)
        return _independent_levels(frames, queue, generator), everywhere, everywhere, 0
    is_full = kind == "ramp"
    place = _draw_ramp(frames, queue, generator) if is_full else _draw_preroll(frames, queue, config, generator)
    t, loss_mask, present = _window_times(frames, queue, place, config, generator)
    if _uniform(generator) >= config.splice:
        return t, loss_mask, present, 0
    first_border = place.first_frame % queue.chunk_frames or queue.chunk_frames
    borders = range(first_border, int(present.sum()), queue.chunk_frames)
    return t, loss_mask, present, borders[_integer(0, len(borders) - 1, generator)] if borders else 0


def _draw_ramp(frames: int, queue: QueueConfig, generator: Generator) -> _Place:
    """Place a full queue; a window that is shorter shows a part of it."""
    hidden = (queue.window_frames - frames) // queue.chunk_frames  # whole chunks, so that the stride's phase stays
    return _Place(queue.context_frames - _integer(0, hidden, generator) * queue.chunk_frames)


def _draw_preroll(frames: int, queue: QueueConfig, config: NoiseLevelConfig, generator: Generator) -> _Place:
    """Draw a queue that fills, after no context or some, or one that drains at the window's end."""
    if _integer(0, 1, generator):
        chunks_of_context = _integer(0, 1, generator) * _integer(
            0, queue.context_frames // queue.chunk_frames, generator
        )
        share = shift(torch.rand((), generator=generator), config.shift)  # may round to 1
        lag = min(int(queue.num_chunks * share), queue.num_chunks - 1)
        is_growing = bool(_integer(0, 1, generator))
        return _Place(chunks_of_context * queue.chunk_frames, lag, is_growing)
    chunks_left = _integer(1, min(queue.num_chunks, max(1, frames // queue.chunk_frames)), generator)
    return _Place(max(0, frames - chunks_left * queue.chunk_frames))


def _window_times(
    frames: int, queue: QueueConfig, place: _Place, config: NoiseLevelConfig, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, loss mask and presence, each (frames,), of a queue before one of its calls and on one curve."""
    call = _integer(0, queue.steps_per_shift - 1, generator)
    focus = config.focuses[_integer(0, len(config.focuses) - 1, generator)]
    factor = 1 + (config.max_factor - 1) * _uniform(generator)
    context_t = config.context_max_t * _uniform(generator)
    first = place.first_frame
    num_chunks = max(0, -(-(frames - first) // queue.chunk_frames))  # that fill the window
    times = queue_times(time_grid(queue.num_steps, focus, factor), queue, call, place.lag, num_chunks)
    t = torch.cat((torch.full((max(first, 0),), context_t), times[max(-first, 0) :]))[:frames]
    frame = torch.arange(frames) - first
    present = frame < (queue.num_chunks - place.lag) * queue.chunk_frames
    return t, frame >= 0, present if place.is_growing else torch.ones_like(present)


def _independent_levels(frames: int, queue: QueueConfig, generator: Generator) -> Tensor:
    """Return one uniform t per chunk, (frames,), sorted half of the time."""
    t = torch.rand(-(-frames // queue.chunk_frames), generator=generator)
    if _integer(0, 1, generator):
        t = t.sort().values
    return t.repeat_interleave(queue.chunk_frames)[:frames]


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
