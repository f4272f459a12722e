"""Muon: steps along the orthogonalised momentum of every matrix, and AdamW's for the rest.

A kernel (out, in, width) counts as the matrix (out, in * width). Its momentum's singular values are brought close to 1
by a Newton-Schulz iteration, so that a step moves all directions alike, not only those with the largest gradients;
scaled so, its elements are as large as AdamW's, whose learning rate and weight decay hold for both.

Source: Jordan et al. 2024 (Muon); Liu et al. 2025 (arXiv 2502.16982, equation 4, the scale).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.errors import UserError

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic x -> a x + b x^3 + c x^5, which Jordan et al. chose: singular values go to 0.7 to 1.2."""
NUM_ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of AdamW's step at learning rate 1, by Liu et al."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of (rows, columns) close to 1, in bfloat16 on a GPU."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).to(matrix)


class Muon(torch.optim.AdamW):
    """Optimiser of the weights of linear layers and convolutions by Muon, of everything else by AdamW.

    Several processes share the matrices out: each orthogonalises some, and one sum brings them together. The gradients
    must be whole and alike on all of them (DDP, not FSDP). A step takes the matrices' gradients away.

    torch.optim.Muon moves a Linear alike (tests), but refuses kernels of three dimensions and does not share the work.

    Args:
        networks: what is trained.
        momentum: of the matrices; the gradient's weight in Nesterov's look-ahead is 1.

    Raises:
        UserError: there are no matrices, as where weight norm computes them.
    """

    def __init__(
        self,
        *networks: nn.Module,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        layers = [layer for network in networks for layer in network.modules()]
        weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d)]
        matrices = [weight for weight in weights if isinstance(weight, nn.Parameter)]  # not what weight norm computes
        if not matrices:
            raise UserError("optimiser.name muon: this network has no weights that it could move, take adamw")
        is_matrix = {id(weight) for weight in matrices}
        rest = [p for network in networks for p in network.parameters() if id(p) not in is_matrix]
        super().__init__([{"params": rest}], lr=lr, betas=betas, weight_decay=weight_decay)
        self.add_param_group({"params": [w for w in matrices if w.requires_grad], "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, where given, computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_matrices()
        super().step()
        return loss

    def _step_matrices(self) -> None:
        group = self.param_groups[1]
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        directions = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
                state["step"] = torch.zeros(())  # AdamW looks for it where a state is loaded
            gradient, weight.grad = weight.grad, None
            state["step"] += 1
            momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
            directions.append(gradient.add_(momentum, alpha=group["momentum"]).flatten(1))
        for weight, direction in zip(weights, shared_out(directions), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            scale = ADAMW_RMS * max(direction.shape) ** 0.5
            weight.add_(direction.view_as(weight), alpha=-group["lr"] * scale)


def shared_out(matrices: list[Tensor]) -> list[Tensor]:
    """Orthogonalise matrices, the same ones on all processes, each process its share."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [orthogonalise(matrix) for matrix in matrices]
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
    pieces = [piece.view_as(m) for piece, m in zip(whole.split([m.numel() for m in matrices]), matrices, strict=True)]
    by_cost = sorted(range(len(matrices)), key=lambda i: -matrices[i].numel() * min(matrices[i].shape))
    for i in by_cost[rank::size]:
        pieces[i].copy_(orthogonalise(matrices[i]))
    dist.all_reduce(whole)
    return pieces
