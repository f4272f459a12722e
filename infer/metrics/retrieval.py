"""Retrieval between two sets of embeddings, whose rows i belong together; equal captions are the same item."""

import zlib

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)


def caption_ids(prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
    """(batch,) int64: equal for equal captions, whatever their case."""
    return torch.tensor([zlib.crc32(prompt.lower().encode()) for prompt in prompts], device=device)


def ranks(queries: Tensor, candidates: Tensor, ids: Tensor) -> Tensor:
    """How many wrong candidates stand before each query's item, (queries,); ties count as before it.

    Row i of both has caption ids[i]; a candidate with the query's caption is right.
    """
    similarity = queries @ candidates.T
    hits = ids[:, None] == ids[None, :]
    best = similarity.masked_fill(~hits, -torch.inf).amax(dim=1, keepdim=True)
    return ((similarity >= best) & ~hits).sum(dim=1)


def recalls(queries: Tensor, candidates: Tensor, ids: Tensor) -> dict[str, float]:
    """Share of queries that find their item among the first k candidates, as {"R@1": ..., "R@5": ..., "R@10": ...}."""
    rank = ranks(queries, candidates, ids)
    return {f"R@{k}": (rank < k).float().mean().item() for k in RECALL_AT}
