"""Fully sharded data parallelism (FSDP2): weights, gradients and optimiser state divided among the devices of a node.

Between nodes the shards are repeated (hybrid sharding), so that gathering weights stays within a node.

Source: Rajbhandari et al. 2020 (ZeRO, stage 3); Zhao et al. 2023 (PyTorch FSDP).
"""

import functools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from models.text_to_audio import Conditioning
from models.unet_layers import ResidualBlock, Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(network: nn.Module, mesh: "DeviceMesh", methods: tuple[str, ...] = ()) -> None:
    """Divide a network's weights over a mesh (nodes, devices of a node), gathered block by block as they are used.

    Args:
        methods: methods other than `forward` that use weights.
    """
    _make_known_container()
    for module in network.modules():
        if isinstance(module, ResidualBlock | Transformer):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(network, method)


@functools.cache
def _make_known_container() -> None:
    """Let FSDP find the tensors in a `Conditioning`: it follows gradients into registered containers only."""
    torch.export.register_dataclass(Conditioning)


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """Gather a sharded network's weights on the CPU of the first process; the others get an empty dict.

    All processes must call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(network, options=options))


def whole_norm(norm: Tensor) -> Tensor:
    """Turn the norm of sharded gradients into an ordinary tensor."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
