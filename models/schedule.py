"""Time grids: which noise times a sampler or a FIFO queue visits.

A grid is an ascending tensor of num_steps + 1 times, u_0 = 0 (clean) to u_S = 1 (noise); a step goes from u_i to
u_{i-1}. A curved grid keeps its steps in one third of the time axis, the focus, and thins the other two by a factor:
"initial" is the noisy third, where sampling starts, "last" the clean one; "equal" is no curve.

Source: InfiniteAudio (2506.03020), curved denoising; the warp is this project's reading of it.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from models.diffusion import t_from_log_snr
from models.errors import UserError

Focus = Literal["equal", "initial", "middle", "last"]
Thirds = Literal["time", "log_snr"]

LOG_SNR_LIMIT = 10.0
"""Thirds in log-SNR divide -10 ... 10 (t = 0.996 ... 0.004), since the axis itself has no ends."""

_FOCUS_REGION = {"last": 0, "middle": 1, "initial": 2}


def warp(position: Tensor, focus: Focus = "equal", factor: float = 1.0, thirds: Thirds = "time") -> Tensor:
    """Map a fraction of the steps, 0 ... 1, to a time, 0 ... 1, for the given focus.

    Args:
        factor: how many times denser the steps are in the focus than elsewhere; 1 is no curve.
        thirds: whether the three regions are equal in time or in log-SNR.
    """
    if focus not in get_args(Focus):
        raise UserError(f"focus must be one of {', '.join(get_args(Focus))}, got {focus!r}")
    if factor < 1:
        raise UserError(f"factor must be at least 1, got {factor}")
    if focus == "equal" or factor == 1:
        return position
    borders = region_borders(thirds).to(position)
    weight = torch.full((3,), 1 / factor).to(position)
    weight[_FOCUS_REGION[focus]] = 1.0
    mass = weight * borders.diff()
    mass = mass / mass.sum()
    cumulative = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    region = torch.bucketize(position.contiguous(), cumulative[1:-1].contiguous(), right=True)
    inside = (position - cumulative[region]) / mass[region]
    time = (borders[region] + inside * borders.diff()[region]).clamp(0, 1)
    return torch.where(position == 1, 1.0, time)  # exact despite rounding


def region_borders(thirds: Thirds = "time") -> Tensor:
    """Return the four borders of the three regions as times, 0 to 1, in float64."""
    if thirds == "time":
        return torch.linspace(0, 1, 4, dtype=torch.float64)
    if thirds == "log_snr":
        inner = torch.tensor([LOG_SNR_LIMIT / 3, -LOG_SNR_LIMIT / 3], dtype=torch.float64)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torch.cat([ends[:1], t_from_log_snr(inner), ends[1:]])
    raise UserError(f"thirds must be one of {', '.join(get_args(Thirds))}, got {thirds!r}")


def time_grid(num_steps: int, focus: Focus = "equal", factor: float = 1.0, thirds: Thirds = "time") -> Tensor:
    """Return the num_steps + 1 ascending times of a grid, (num_steps + 1,) float32, exactly 0 and 1 at its ends."""
    if num_steps < 1:
        raise UserError(f"num_steps must be at least 1, got {num_steps}")
    position = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    return warp(position, focus, factor, thirds).float()


def skip_grid(num_reference_steps: int, focus: Focus, factor: float) -> Tensor:
    """Return the paper's form of a curve: a reference grid with the steps outside the focus thinned.

    Every reference step in the focused third stays; outside it every factor-th does, as evenly as whole indices
    allow, so that each focus has the same number of steps, num_reference_steps / 3 * (1 + 2 / factor), rounded.
    """
    if focus not in get_args(Focus):
        raise UserError(f"focus must be one of {', '.join(get_args(Focus))}, got {focus!r}")
    if num_reference_steps < 3 or factor < 1:
        raise UserError(f"needs at least 3 steps and a factor of at least 1, got {num_reference_steps} and {factor}")
    if focus == "equal":
        return time_grid(num_reference_steps)
    borders = [round(num_reference_steps * region / 3) for region in range(4)]
    lengths = [end - start for start, end in pairwise(borders)]
    num_steps = round(num_reference_steps / 3 * (1 + 2 / factor))
    focused = _FOCUS_REGION[focus]
    first, second = (region for region in range(3) if region != focused)
    num_thinned = max(2, num_steps - lengths[focused])
    counts = [0, 0, 0]
    counts[focused] = lengths[focused]
    counts[first] = min(
        lengths[first], max(1, round(num_thinned * lengths[first] / (lengths[first] + lengths[second])))
    )
    counts[second] = min(lengths[second], num_thinned - counts[first])
    kept = [0]
    for start, length, count in zip(borders[:-1], lengths, counts, strict=True):
        kept += [start + round(length * step / count) for step in range(1, count + 1)]
    return torch.tensor(kept, dtype=torch.float64).div(num_reference_steps).float()


def skip_grid_of(num_steps: int, focus: Focus, factor: float) -> Tensor:
    """Return the `skip_grid` that has num_steps steps, from the smallest reference grid that gives them."""
    for num_reference_steps in range(max(3, num_steps), 3 * num_steps + 1):
        grid = skip_grid(num_reference_steps, focus, factor)
        if len(grid) == num_steps + 1:
            return grid
    raise UserError(f"no skipped grid has {num_steps} steps with factor {factor:g}, take at least 3 steps or the warp")
