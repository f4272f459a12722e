"""Choose the device that a command runs on, and how its networks compute."""

import os
import shutil
from typing import Literal

import torch
from torch import nn

from models.errors import UserError

Precision = Literal["float32", "bfloat16", "float16"]

SMALL_NETWORK = 40_000_000
"""Parameters below which a call for one stream is no faster with several threads: measured, see infer/README.md."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" is CUDA, then MPS, then CPU.

    Raises:
        UserError: the name is unknown or the device is not present.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise UserError(f"device {name!r} is not available on this machine, use --device auto or cpu")
    return device


def spare_threads(network: nn.Module, device: torch.device) -> None:
    """Let this process compute with one thread where the network is small, and leave the other cores to others.

    For commands that play one stream; it changes a setting of the whole process.
    """
    if device.type == "cpu" and sum(parameter.numel() for parameter in network.parameters()) < SMALL_NETWORK:
        torch.set_num_threads(1)


def autocast_to(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which convolutions and products are computed in `precision`; weights stay as they are."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def compile_network(network: nn.Module) -> None:
    """Compile a network in place; the first calls of each new shape take up to minutes.

    Raises:
        UserError: there is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise UserError("--compile needs a C++ compiler, such as g++: install one, or leave --compile out")
    network.compile()
