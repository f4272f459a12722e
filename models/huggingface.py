"""Read Hugging Face models: a folder on disk, or a hub name where the hub (or its local cache) can be reached.

A model is a folder with `config.json`, `model.safetensors` (or its shards, or `pytorch_model.bin`) and tokenizer files.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from models.checkpoint import CONFIG_NAME, read_tensors
from models.saved_config import read_json

_SAFETENSORS = "model*.safetensors"
_PICKLED = "pytorch_model*.bin"
_DESCRIPTIONS = ["*.json", "*.txt", "*.model"]


def is_pretrained(source: str | Path) -> bool:
    """Whether `source` names a Hugging Face model: a folder with one, or "owner/name" that is no path here."""
    return _is_model_folder(source) or is_hub_name(source)


def locate_pretrained(source: str | Path) -> Path:
    """Return the folder of a model, fetching it from the hub when `source` is a hub name.

    Raises:
        FileNotFoundError: neither a folder with a model nor a name that can be reached.
    """
    if _is_model_folder(source):
        return Path(source)
    if not is_hub_name(source):
        raise FileNotFoundError(f"no Hugging Face model in {source}: expected a folder with {CONFIG_NAME} and weights")
    import huggingface_hub  # half a second, wanted here alone
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name = str(source)
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_DESCRIPTIONS, _SAFETENSORS]))
        if not list(folder.glob(_SAFETENSORS)):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_DESCRIPTIONS, _PICKLED]))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"cannot fetch {name} from the Hugging Face hub ({type(error).__name__}); on a machine with network run "
            f"`hf download {name} --local-dir {Path(name).name}`, copy that folder here and give its path instead"
        ) from None
    return folder


def read_pretrained(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config.json and all weights (as stored, on the CPU) of a Hugging Face folder.

    Raises:
        FileNotFoundError: the folder has no configuration or no weights.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"no {CONFIG_NAME} in {folder}")
    config = read_json(folder / CONFIG_NAME)
    files = sorted(folder.glob(_SAFETENSORS)) or sorted(folder.glob(_PICKLED))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}: expected model.safetensors (or its shards)")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_tensors(file)
    return config, state


def _is_model_folder(source: str | Path) -> bool:
    path = Path(source) / CONFIG_NAME
    return path.is_file() and "model_type" in read_json(path)


def is_hub_name(source: str | Path) -> bool:
    """Whether `source` is "owner/name", and no path here."""
    path = Path(source)
    return bool(re.fullmatch(r"\w[\w-]*/\w[\w.-]*", str(source))) and not path.exists() and not path.parent.is_dir()
