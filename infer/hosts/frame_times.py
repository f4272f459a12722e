"""A timestep per frame for the 2-D U-Nets of diffusers, by module hooks alone: nothing is forked or replaced.

Time enters such a U-Net as `timestep -> time_proj -> time_embedding (joined with a class embedding) -> temb`, once per
clip, and every ResnetBlock2D adds `time_emb_proj(silu(temb))` before its second norm, the same for all frames. Here

1. `time_proj` sees the timesteps of all frames at all resolutions in place of the one of the clip, so that temb comes
   out as rows (batch * rows, width);
2. every block gets the rows of its own resolution;
3. its `time_emb_proj` keeps the projected rows and hands zeros to the block, which adds them; and the block's second
   norm adds the projection (batch, channels, frames, 1): the same place in the formula. (A block with
   `scale_shift` is scaled and shifted after that norm instead.)

A coarse cell of `stride` frames gets the mean of their timesteps, which is then embedded, so that every block sees an
embedding as it saw in training. With equal timesteps in all frames the output is the unmodified network's (1e-6).

Tensors: sample (batch, channels, frames, bins), timesteps (batch, frames).

Sources: Kim et al. 2024 (FIFO-Diffusion), section 4 (a time per frame); Liu et al. 2023 (AudioLDM) for the network.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class FrameTimes:
    """Calls a UNet2DConditionModel, or AudioLDM2's, with one timestep per frame; `remove` takes the hooks off again.

    Between calls, and after `remove`, the U-Net itself is as it was.

    Raises:
        ValueError: a residual block resamples, which no U-Net for audio known here has.
    """

    def __init__(self, unet: nn.Module):
        self.unet = unet
        blocks: Any = unet.down_blocks
        self._strides = [1]
        for block in blocks:
            if block.downsamplers is not None:
                self._strides.append(2 * self._strides[-1])
        self._timesteps: Tensor | None = None  # (batch, frames) while a call is under way
        self._rows: dict[int, slice] = {}  # frames of a resolution -> its rows among those of all
        self._num_rows = 0
        self._kept: dict[nn.Module, Tensor] = {}  # projections that wait for a block's second norm
        self._handles = [unet.get_submodule("time_proj").register_forward_pre_hook(self._replace_timestep)]
        if getattr(unet, "class_embedding", None) is not None:
            self._handles.append(unet.get_submodule("class_embedding").register_forward_hook(self._repeat_class))
        for module in unet.modules():
            if type(module).__name__ == "ResnetBlock2D" and getattr(module, "time_emb_proj", None) is not None:
                self._handles += self._hook_block(module)

    @property
    def time_stride(self) -> int:
        """Frames of a cell at the coarsest resolution."""
        return self._strides[-1]

    def __call__(self, sample: Tensor, timesteps: Tensor, **conditioning: Any) -> Tensor:
        """Predict with the host's timesteps (batch, frames), which may be fractions."""
        self._timesteps = timesteps
        try:
            return self.unet(sample, torch.zeros((), device=sample.device), return_dict=False, **conditioning)[0]
        finally:
            self._timesteps = None
            self._kept.clear()

    def remove(self) -> None:
        """Take all hooks off the U-Net."""
        for handle in self._handles:
            handle.remove()

    def _hook_block(self, block: Any) -> list[RemovableHandle]:
        if block.up or block.down:
            raise ValueError("a residual block that resamples cannot take a timestep per frame")
        handles = [
            block.register_forward_pre_hook(self._choose_rows, with_kwargs=True),
            block.time_emb_proj.register_forward_hook(lambda _, __, output: self._keep(block, output)),
        ]
        if block.time_embedding_norm == "scale_shift":
            handles.append(block.norm2.register_forward_hook(lambda _, __, output: self._modulate(block, output)))
        else:
            handles.append(block.norm2.register_forward_pre_hook(lambda _, inputs: self._add(block, inputs[0])))
        return handles

    def _replace_timestep(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        """Give `time_proj` the timesteps of all frames at all resolutions, (batch * rows,)."""
        if self._timesteps is None:
            return None
        frames = self._timesteps.shape[1]
        pooled, self._rows, self._num_rows = [], {}, 0
        for stride in self._strides:
            cells = pool_cells(self._timesteps, stride)
            self._rows.setdefault(cells.shape[1], slice(self._num_rows, self._num_rows + cells.shape[1]))
            self._num_rows += cells.shape[1]
            pooled.append(cells)
        assert pooled[0].shape[1] == frames
        return (torch.cat(pooled, dim=1).flatten(),)

    def _repeat_class(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return None if self._timesteps is None else output.repeat_interleave(self._num_rows, dim=0)

    def _choose_rows(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand a block, of the rows of all resolutions, those of its own."""
        if self._timesteps is None:
            return None
        named = dict(zip(("input_tensor", "temb"), args, strict=False)) | kwargs
        rows = self._rows[named["input_tensor"].shape[2]]
        named["temb"] = named["temb"].unflatten(0, (-1, self._num_rows))[:, rows].flatten(0, 1)
        return (), named

    def _keep(self, block: nn.Module, projected: Tensor) -> Tensor | None:
        if self._timesteps is None:
            return None
        batch = len(self._timesteps)
        self._kept[block] = projected.unflatten(0, (batch, -1)).transpose(1, 2)[
            ..., None
        ]  # (batch, channels, frames, 1)
        return projected.new_zeros(batch, projected.shape[1])

    def _add(self, block: nn.Module, x: Tensor) -> tuple[Tensor] | None:
        return None if self._timesteps is None else (x + self._kept.pop(block),)

    def _modulate(self, block: nn.Module, x: Tensor) -> Tensor | None:
        if self._timesteps is None:
            return None
        scale, shift = self._kept.pop(block).chunk(2, dim=1)
        return x * (1 + scale) + shift


def pool_cells(values: Tensor, stride: int) -> Tensor:
    """Average values (batch, frames) over cells of `stride` frames, (batch, ceil(frames / stride)).

    The last cell may be shorter.
    """
    return F.avg_pool1d(values[:, None], stride, ceil_mode=True)[:, 0] if stride > 1 else values
