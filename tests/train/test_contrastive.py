import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from train.contrastive import caption_ids, contrastive_loss, recalls

WORLD_SIZE = 2


def unit_rows(*size: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_loss_of_matched_orthogonal_pairs_in_closed_form() -> None:
    pairs = torch.eye(6)
    ids = torch.arange(6)
    loss = contrastive_loss(pairs, pairs, ids, torch.tensor(2.0))
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 5) - 2, rel=1e-5)
    swapped = contrastive_loss(pairs, pairs.roll(1, 0), ids, torch.tensor(2.0))
    assert swapped.item() == pytest.approx(math.log(math.exp(2) + 5), rel=1e-5)


def test_equal_captions_are_no_negatives() -> None:
    ids = caption_ids(["Rain", "siren", "rain"])
    assert ids[0] == ids[2] != ids[1]
    audio, text = unit_rows(3, 4), unit_rows(3, 4, seed=1)
    loss = contrastive_loss(audio, text, ids, torch.tensor(3.0))
    expected = []
    for logits in (3 * audio @ text.T, 3 * text @ audio.T):
        for row, candidates, target in ((0, [0, 1], 0), (1, [0, 1, 2], 1), (2, [1, 2], 1)):
            expected.append(F.cross_entropy(logits[row, candidates], torch.tensor(target)))
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_recalls_by_hand() -> None:
    candidates = torch.eye(12)
    queries = candidates.clone()
    queries[0] += 3 * candidates[1] + 2 * candidates[2]  # two wrong ones before the right one
    ids = torch.arange(12)
    assert recalls(queries, candidates, ids) == pytest.approx({"R@1": 11 / 12, "R@5": 1.0, "R@10": 1.0})
    ids[1] = ids[0]  # now the best of them has the same caption
    assert recalls(queries, candidates, ids)["R@1"] == 1.0


def test_recall_of_constant_embeddings_is_zero() -> None:
    same = torch.ones(20, 3)
    assert recalls(same, same, torch.arange(20)) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def _gradient(network: nn.Module, inputs: Tensor, ids: Tensor) -> tuple[float, Tensor]:
    audio, text = F.normalize(network(inputs[:, 0]), dim=-1), F.normalize(network(inputs[:, 1]), dim=-1)
    scale = network.get_parameter("bias").sum().exp()
    loss = contrastive_loss(audio, text, ids, scale)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(5, 4).double(), torch.randn(6, 2, 5).double(), torch.tensor([0, 1, 2, 0, 4, 5])


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=WORLD_SIZE)
    network, inputs, ids = _problem()
    rows = slice(3 * rank, 3 * rank + 3)
    loss, gradient = _gradient(network, inputs[rows], ids[rows])
    result = torch.cat((torch.tensor([loss], dtype=torch.float64), gradient))
    torch.distributed.all_reduce(result)
    if rank == 0:
        torch.save(result / WORLD_SIZE, f"{folder}/result.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    loss, gradient = _gradient(*_problem())
    spawn(_rank, args=(str(tmp_path),), nprocs=WORLD_SIZE)
    result = torch.load(tmp_path / "result.pt")
    assert result[0].item() == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(result[1:], gradient)
