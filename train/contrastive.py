"""Contrast between two sets of embeddings: the symmetric loss over all ranks (retrieval: `infer.metrics.retrieval`).

audio, text (batch, width), length 1; row i of one belongs to row i of the other. Equal captions are the same item and
no negatives.

Source: Radford et al. 2021 (2103.00020), figure 3; Wu et al. 2022 (2211.06687), eq. 3.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_autograd
import torch.nn.functional as F
from torch import Tensor

from infer.metrics.retrieval import caption_ids, recalls

__all__ = ["caption_ids", "contrastive_loss", "recalls"]


def contrastive_loss(audio: Tensor, text: Tensor, ids: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean cross-entropy of finding each item's partner among those of all ranks, in both directions.

    Each rank's loss covers its own rows against every rank's columns, so that the mean over ranks (and, through the
    gather, the gradients that data-parallel training averages) is that of one process with the whole batch.
    """
    all_audio, all_text, all_ids, first = _gather(audio, text, ids)
    target = torch.arange(first, first + len(audio), device=audio.device)
    same = ids[:, None] == all_ids[None, :]
    same[torch.arange(len(target), device=target.device), target] = False
    logits_audio = (logit_scale * audio @ all_text.T).masked_fill(same, -torch.inf)  # (batch, all)
    logits_text = (logit_scale * text @ all_audio.T).masked_fill(same, -torch.inf)
    return (F.cross_entropy(logits_audio, target) + F.cross_entropy(logits_text, target)) / 2


def _gather(audio: Tensor, text: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Rows of all ranks, with gradients, and the index of this rank's first."""
    if not (dist.is_available() and dist.is_initialized()):
        return audio, text, ids, 0
    both = torch.cat(dist_autograd.all_gather(torch.stack((audio, text), dim=1)))  # (all, 2, width)
    all_ids = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(all_ids, ids)
    return both[:, 0], both[:, 1], torch.cat(all_ids), dist.get_rank() * len(audio)
