"""Checkpoints for use: a folder with `config.json` and safetensors, one part per network.

    config.json                        {"vae": {...}, "unet": {...}}
    vae.safetensors                    weights of one part
    unet-00001-of-00002.safetensors    or several files, when a part is larger than one shard

Checkpoints for resuming a training are Lightning's own and live elsewhere.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import UserError

CONFIG_NAME = "config.json"
SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints/demo"
"""The model that comes with the project: what commands use unless told otherwise, from any working directory."""
SHARD_BYTES = 16 * 2**20
MAX_LISTED = 5


def save_part(
    folder: str | Path, name: str, config: dict[str, Any], module: nn.Module, dtype: torch.dtype = torch.float16
) -> None:
    """Write the weights and the configuration of one part into a checkpoint folder.

    Floating-point tensors are stored as `dtype`, in shards of at most 16 MiB. Other parts of the folder stay as they
    are; a part of the same name is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in module.state_dict().items()
    }
    shards = _split_into_shards(state)
    new_files = []
    for index, shard in enumerate(shards, start=1):
        suffix = "" if len(shards) == 1 else f"-{index:05d}-of-{len(shards):05d}"
        path = folder / f"{name}{suffix}.safetensors"
        _replace_atomically(path, save(shard))
        new_files.append(path)
    for old in _part_files(folder, name):
        if old not in new_files:
            old.unlink()
    save_config(folder, name, config)


def save_config(folder: str | Path, name: str, config: dict[str, Any]) -> None:
    """Write or replace one entry of a checkpoint folder's configuration."""
    path = Path(folder) / CONFIG_NAME
    configs = read_json(path) if path.exists() else {}
    text = json.dumps(configs | {name: config}, indent=2) + "\n"
    _replace_atomically(path, text.encode())


def has_part(folder: str | Path, name: str) -> bool:
    """Whether the checkpoint folder describes a part of this name."""
    return (Path(folder) / CONFIG_NAME).exists() and name in read_json(Path(folder) / CONFIG_NAME)


def load_config(folder: str | Path, name: str) -> dict[str, Any]:
    """Read the configuration of one part.

    Raises:
        FileNotFoundError: the folder is not a checkpoint.
        UserError: the checkpoint has no such part.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).exists():
        raise FileNotFoundError(f"no model in {folder}: expected a folder with {CONFIG_NAME}{_neighbours(folder)}")
    configs = read_json(folder / CONFIG_NAME)
    if name not in configs:
        raise UserError(f"{folder / CONFIG_NAME} has no part {name!r}, it has {sorted(configs)}")
    return configs[name]


def load_part(folder: str | Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read configuration and weights of one part; weights are float32 on the CPU.

    Raises:
        FileNotFoundError: the folder is not a checkpoint, or weight files are missing.
        UserError: the checkpoint has no such part, or a weight file is damaged.
    """
    folder = Path(folder)
    config = load_config(folder, name)
    files = _part_files(folder, name)
    expected = int(files[0].stem.rsplit("-of-", 1)[1]) if files and "-of-" in files[0].stem else 1
    if len(files) != expected:
        raise FileNotFoundError(f"{folder} holds {len(files)} of {expected} weight files of part {name!r}")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_tensors(file)
    return config, {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        UserError: it is not one.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a weight file to the CPU: safetensors, or a pickled dictionary, of which nothing is run.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - pickle raises anything
        kind = path.suffix.removeprefix(".") or "weight"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a valid {kind} file ({reason}), download or export it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, expected a dictionary of tensors")
    return state


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str | Path) -> None:
    """Load a state dict strictly; the module may be on the meta device.

    Raises:
        UserError: keys are missing or unknown, or shapes differ; lists the first few of them.
    """
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if problems:
        listed = "; ".join(problems[:MAX_LISTED]) + ("; ..." if len(problems) > MAX_LISTED else "")
        raise UserError(f"weights in {where} do not fit the configuration ({len(problems)} differences): {listed}")
    module.load_state_dict(state, assign=True)


def replace_tensors(folder: str | Path, name: str, values: dict[str, Tensor]) -> None:
    """Write new values of some tensors of a part; the others, and the number formats, stay as they are.

    Each weight file is replaced whole or not at all.

    Raises:
        UserError: the part has no tensor of that name.
    """
    missing = set(values)
    for file in _part_files(Path(folder), name):
        state = read_tensors(file)
        found = missing & state.keys()
        if found:
            state |= {key: values[key].to(state[key].dtype).view_as(state[key]).contiguous() for key in found}
            _replace_atomically(file, save(state))
            missing -= found
    if missing:
        raise UserError(f"part {name!r} of {folder} has no {', '.join(sorted(missing))}")


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules built inside are on the meta device: fill them with `load_weights`."""
    with torch.device("meta"), _SkipInitialisation():
        yield


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


def _split_into_shards(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in state.items():
        if shards[-1] and size + value.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    return shards


def _part_files(folder: Path, name: str) -> list[Path]:
    return sorted([*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}-?????-of-?????.safetensors")])


def _replace_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _neighbours(folder: Path) -> str:
    """Name the checkpoints beside a folder that is not one."""
    found = sorted(p.parent.name for p in folder.parent.glob(f"*/{CONFIG_NAME}")) if folder.parent.is_dir() else []
    return f"; {folder.parent} has {', '.join(found)}" if found else ""
