"""Find and read the parts of a published pipeline: a folder that diffusers wrote, or a name on the Hugging Face hub.

A pipeline is a folder with `model_index.json`, which names the pipeline's class, and a folder for each part. Parts are
loaded one by one, so that pipeline classes, some of them deprecated, are not needed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

from models.checkpoint import CONFIG_NAME, read_json
from models.errors import UserError

INDEX_NAME = "model_index.json"


def is_pipeline(source: str | Path) -> bool:
    """Whether `source` is a folder with a pipeline, or "owner/name" that is no path here."""
    return (Path(source) / INDEX_NAME).is_file() or _is_hub_name(source)


def locate_pipeline(source: str | Path) -> Path:
    """Return the folder of a pipeline, fetched from the hub, or found in its local cache, if `source` is a hub name.

    Raises:
        UserError: there is neither such a folder nor a name that can be reached.
    """
    if (Path(source) / INDEX_NAME).is_file():
        return Path(source)
    if not _is_hub_name(source):
        raise UserError(f"no pipeline in {source}: expected a folder with {INDEX_NAME}, or a hub name as owner/name")
    import huggingface_hub  # half a second, wanted here alone
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name = str(source)
    try:
        files = ["*.json", "*.txt", "*.model", "*/*.safetensors", "*/*.bin"]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files, ignore_patterns=["*.fp16.*"]))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot fetch {name} from the Hugging Face hub ({type(error).__name__}); on a machine with network run "
            f"`hf download {name} --local-dir {Path(name).name}`, copy that folder here and give its path instead"
        ) from None


def pipeline_class(folder: Path) -> str:
    """Return the name of the pipeline's class, such as AudioLDMPipeline."""
    return str(read_json(folder / INDEX_NAME).get("_class_name", "unknown"))


def part_type(folder: Path, name: str) -> str:
    """Return the kind of a part of transformers, such as "t5", from its configuration.

    Raises:
        UserError: the part is missing.
    """
    path = folder / name / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"{folder} has no part {name}: the folder is not complete, download it again")
    return str(read_json(path).get("model_type", "unknown"))


def load_part(folder: Path, name: str, cls: Any) -> Any:
    """Load one part of a pipeline with its own class, without gradients, ready to predict.

    Raises:
        UserError: the part is missing or damaged.
    """
    if not (folder / name).is_dir():
        raise UserError(f"{folder} has no part {name}: the folder is not complete, download it again")
    try:
        with _quiet():
            part = cls.from_pretrained(folder / name, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"cannot load {folder / name} as {cls.__name__}: {error}") from error
    return part.eval().requires_grad_(False) if hasattr(part, "eval") else part


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' advice and bars off the terminal while a part is loaded; their errors are raised anyway."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = [(module, module.get_verbosity()) for module in (diffusers_logging, transformers_logging)]
    has_bars = transformers_logging.is_progress_bar_enabled()
    try:
        for module, _ in levels:
            module.set_verbosity(CRITICAL)
        transformers_logging.disable_progress_bar()
        yield
    finally:
        for module, level in levels:
            module.set_verbosity(level)
        if has_bars:
            transformers_logging.enable_progress_bar()


def require_diffusers() -> Any:
    """Import diffusers.

    Raises:
        UserError: it is not installed.
    """
    try:
        import diffusers
    except ModuleNotFoundError:
        raise UserError('published models need diffusers: pip install "endless-audio[hosts]"') from None
    return diffusers


def _is_hub_name(source: str | Path) -> bool:
    path = Path(source)
    return bool(re.fullmatch(r"\w[\w-]*/\w[\w.-]*", str(source))) and not path.exists() and not path.parent.is_dir()
