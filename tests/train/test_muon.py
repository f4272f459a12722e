"""Muon against its definition, torch's own and AdamW; what two processes do is in `test_distributed.py`."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from train.muon import Muon, orthogonalise


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30), (7, 1)])
def test_singular_values_come_close_to_one_and_vectors_stay(shape: tuple[int, int]):
    matrix = noise(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    matrix = left * values.clamp(min=0.05 * float(values[0])) @ right  # the iteration lifts what is above that
    result = orthogonalise(matrix)
    turned = left.T @ result @ right.T
    assert ((torch.diagonal(turned) > 0.6) & (torch.diagonal(turned) < 1.3)).all()
    assert (turned - torch.diag(torch.diagonal(turned))).abs().max() < 1e-4


def gradients_of(network: nn.Module, seed: int) -> None:
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = noise(*parameter.shape, seed=100 * seed + index)


def test_matrices_move_as_in_torchs_muon():
    ours, theirs = nn.Linear(24, 40, bias=False), nn.Linear(24, 40, bias=False)
    theirs.load_state_dict(ours.state_dict())
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    optimisers = (
        Muon(ours, **settings),
        torch.optim.Muon(theirs.parameters(), momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings),
    )
    start = ours.weight.detach().clone()
    for step in range(4):
        for network, optimiser in zip((ours, theirs), optimisers, strict=True):
            gradients_of(network, step)
            optimiser.step()
    moved = ours.weight - start
    assert (theirs.weight - start - moved).norm() < 0.02 * moved.norm()  # torch's iterates in bfloat16


class Mixed(nn.Module):
    """A kernel, a table, a vector, and a matrix that is no layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(4, 6, kernel_size=3)
        self.table = nn.Embedding(5, 8)
        self.free = nn.Parameter(torch.ones(3, 3))


def test_everything_else_moves_as_in_adamw():
    ours, theirs = Mixed(), Mixed()
    theirs.load_state_dict(ours.state_dict())
    kernel = ours.kernel.weight.detach().clone()
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}
    optimisers = Muon(ours, **settings), torch.optim.AdamW(theirs.parameters(), **settings)
    for step in range(3):
        for network, optimiser in zip((ours, theirs), optimisers, strict=True):
            gradients_of(network, step)
            optimiser.step()
    weights = ours.state_dict()
    for name, weight in theirs.state_dict().items():
        if name != "kernel.weight":
            torch.testing.assert_close(weights[name], weight)
    moved = weights["kernel.weight"] - kernel
    assert 0.5 * 3 * 0.2 * 0.01 < float(moved.square().mean().sqrt()) < 3 * 0.2 * 0.01 * 1.3


def test_a_step_goes_on_from_its_state():
    first, second = Mixed(), Mixed()
    one, two = Muon(first, lr=0.01), Muon(second, lr=0.01)
    gradients_of(first, 0)
    one.step()
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for network, optimiser in ((first, one), (second, two)):
        gradients_of(network, 1)
        optimiser.step()
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight), name
