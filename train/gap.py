"""What validation measures: losses by noise level, what the queue's ramp costs, and what the prompt is worth.

The gap at slot j is the error of v under the ramp relative to the error at the same t with one level for the whole
clip; at most 1 means that the queue shows the network nothing it is worse at.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.diffusion import add_noise, velocity
from models.queue import QueueConfig, queue_times
from models.schedule import time_grid


def level_losses(
    denoise: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    noise: Tensor,
    frame_mask: Tensor,
    queue: QueueConfig,
) -> dict[str, Tensor]:
    """Mean squared errors of v at the levels of a queue, in the middle of a shift.

    Args:
        denoise: (x (batch, channels, frames), t (batch, frames)) -> v.
        frame_mask: (batch, frames) bool on the CPU, True = real.

    Returns:
        "one_level/t0.25" and "ramp/t0.25" for every slot's level, "loss" their overall means' average over the
        one-level clips, and "gap", the mean over slots of ramp / one level on the same frames.
    """
    batch, _, frames = latents.shape
    queued = queue_times(time_grid(queue.num_steps), queue, call=queue.steps_per_shift // 2)
    ramp_t = torch.cat((torch.zeros(queue.context_frames), queued))[:frames]
    ramp_error = _error(denoise, latents, noise, ramp_t.expand(batch, -1))
    losses: dict[str, Tensor] = {}
    gaps, one_level = [], []
    for slot, level in enumerate(queued[:: queue.chunk_frames].tolist()):
        error = _error(denoise, latents, noise, torch.full((batch, frames), level))
        one_level.append((error * frame_mask).sum() / frame_mask.sum())
        losses[f"one_level/t{level:.2f}"] = one_level[-1]
        first = queue.context_frames + slot * queue.chunk_frames
        here = frame_mask & (torch.arange(frames) >= first) & (torch.arange(frames) < first + queue.chunk_frames)
        if here.any():
            ramp = ramp_error[here].mean()
            losses[f"ramp/t{level:.2f}"] = ramp
            gaps.append(ramp / error[here].mean())
    losses["loss"] = torch.stack(one_level).mean()
    losses["gap"] = torch.stack(gaps).mean() if gaps else torch.tensor(float("nan"))
    return losses


def prompt_share(
    denoise: Callable[[Tensor, Tensor], Tensor],
    denoise_unprompted: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    noise: Tensor,
    frame_mask: Tensor,
) -> Tensor:
    """Share of the latents' variance that text and timing explain at pure noise, where there is nothing else to see.

    Tempo, pitch and kind are decided there, in a few percent of the noise times, and the mean loss hardly shows it.

    Args:
        denoise, denoise_unprompted: with the batch's conditioning and without any; else as in `level_losses`.
    """
    t = torch.ones(latents.shape[::2])
    prompted, unprompted = (
        (_error(network, latents, noise, t) * frame_mask).sum() for network in (denoise, denoise_unprompted)
    )
    return 1 - prompted / unprompted


def _error(denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error of v, mean over channels: (batch, frames) on the CPU."""
    t = t.to(latents)
    prediction = denoise(add_noise(latents, noise, t), t)
    return (prediction.float() - velocity(latents, noise, t)).square().mean(dim=1).cpu()
