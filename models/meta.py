"""Build a network without memory or initial weights, when a checkpoint is about to fill it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _SkipInitialisation(TorchFunctionMode):
    """Turns the functions of `torch.nn.init` into no-ops.

    On the meta device they would compute nothing, but `normal_` would import the compiler, which takes a second.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules built inside are on the meta device: fill them with `models.checkpoint.load_weights`."""
    with torch.device("meta"), _SkipInitialisation():
        yield
