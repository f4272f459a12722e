"""Latent partitioning and lookahead denoising: long queues for a network trained on one level and a short window.

    queue of n windows of f frames        [ w0 | w1 | ... ]        each window spans 1/n of the noise times
    lookahead, 2 n windows, half apart    [ . w0 ][ . w1 ] ...     only the second, noisier half of each is taken

A window sees the smaller range of levels the more of them there are, and with lookahead every frame but the first ones
is predicted behind f/2 cleaner ones. It costs twice the network's work, as many calls as windows, no memory.

Source: Kim et al. 2024 (FIFO-Diffusion), sections 4.2 and 4.3, algorithms 2 and 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.errors import UserError

Network = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(latents (batch, channels, frames), t (batch, frames), context, context_mask) -> v."""


class PartitionedNetwork:
    """A network that is shown a long window in pieces.

    Args:
        network: what runs on the pieces.
        frames: length f of a piece.
        lookahead: whether pieces overlap by half, the cleaner half being only looked at. The context in front of the
            queue should then be f/2 frames long.

    Raises:
        UserError: f is no length, or odd with lookahead.
    """

    def __init__(self, network: Network, frames: int, *, lookahead: bool = False):
        if frames < 1 or (lookahead and frames % 2):
            raise UserError(f"a partition must have at least 1 frame, and an even number with lookahead, got {frames}")
        self.network = network
        self.frames = frames
        self.hop = frames // 2 if lookahead else frames

    def __call__(self, latents: Tensor, t: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        total, overlap = latents.shape[-1], self.frames - self.hop
        pieces: list[Tensor] = []
        for start in range(0, max(total - overlap, 1), self.hop):
            window = slice(start, start + self.frames)
            v = self.network(latents[..., window], t[..., window], context, context_mask)
            pieces.append(v[..., overlap:] if start else v)
        return torch.cat(pieces, dim=-1)
