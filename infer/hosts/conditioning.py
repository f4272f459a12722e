"""What a published network is conditioned on: named tensors, of which rows can be joined to a batch.

Tensors: vectors (rows, width), sequences (rows, tokens, width), masks (rows, tokens) bool, True = keep.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class NamedConditioning:
    """Tensors by the name of the network's argument; a row each for every sample."""

    tensors: Mapping[str, Tensor]
    padding: Mapping[str, Tensor] = field(default_factory=dict)
    """What a sequence is padded with, (width,), where that is not zeros."""

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def cat(self, other: "NamedConditioning") -> "NamedConditioning":
        """Join two batches; shorter sequences are padded, and their masks with False."""
        joined = {name: self._join(name, first, other.tensors[name]) for name, first in self.tensors.items()}
        return NamedConditioning(joined, self.padding)

    def _join(self, name: str, first: Tensor, second: Tensor) -> Tensor:
        is_sequence = first.ndim == 3 or first.dtype == torch.bool
        if not is_sequence or first.shape[1] == second.shape[1]:
            return torch.cat((first, second))
        tokens = max(first.shape[1], second.shape[1])
        return torch.cat([self._pad(name, tensor, tokens) for tensor in (first, second)])

    def _pad(self, name: str, tensor: Tensor, tokens: int) -> Tensor:
        missing = tokens - tensor.shape[1]
        if name in self.padding:
            filling = self.padding[name].to(tensor).expand(len(tensor), missing, -1)
            return torch.cat((tensor, filling), dim=1)
        return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
