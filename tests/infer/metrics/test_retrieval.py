"""Ranks and recalls by hand."""

import torch

from infer.metrics.retrieval import caption_ids, ranks, recalls


def test_ranks_by_hand():
    candidates = torch.eye(4)
    queries = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.5, 0, 0], [0.3, 0.2, 0.1, 0], [0, 0, 0, 1.0]])
    assert ranks(queries, candidates, torch.arange(4)).tolist() == [0, 1, 2, 0]
    assert recalls(queries, candidates, torch.arange(4)) == {"R@1": 0.5, "R@5": 1.0, "R@10": 1.0}


def test_equal_captions_are_the_same_item():
    ids = caption_ids(["Rain", "wind", "rain"])
    queries = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])  # the rains find each other
    assert ranks(queries, torch.eye(3), ids).tolist() == [0, 0, 0]
    assert ranks(queries, torch.eye(3), torch.arange(3)).tolist() == [2, 0, 2]
