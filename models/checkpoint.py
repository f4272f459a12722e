"""Checkpoints for use: a folder with `config.json` and the weights of its networks, one part each.

    config.json                                 {"vae": {...}, "unet": {...}, "files": {"vae": [...], "unet": [...]}}
    vae-1f3870be274f.safetensors                weights of one part, named by their content
    unet-00001-of-00002-d3b07384d113.safetensors   or several files, when a part is larger than 5 GB

`config.json` lists the files of every part with their sizes and SHA-256. It is replaced last and in one step, and files
that it lists are never written to: a folder is the old model or the new one at any moment, for readers and after a
crash. Folders of before have no list; of them what can be checked is checked.

Checkpoints for resuming a training are Lightning's own and live elsewhere.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import UserError
from models.files import PARTIAL, locked, replacing
from models.saved_config import build_config, read_json

T = TypeVar("T")

CONFIG_NAME = "config.json"
FILES = "files"
"""Entry of `config.json` with the files of every part."""
SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints/demo"
"""The model that comes with the project: what commands use unless told otherwise, from any working directory."""
SHARD_BYTES = 5 * 10**9
MAX_LISTED = 5
DIGEST_LENGTH = 12
"""Digits of a file's hash in its name."""
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint folder, or one entry of settings, which has no tensors."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights as they are stored."""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Further files by name, such as "tokenizer.json"."""


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file of a part, as `config.json` lists it."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise UserError(f"name must be a file's in the same folder, got {self.name!r}")


def part_of(
    name: str,
    config: Mapping[str, Any],
    module: nn.Module,
    dtype: torch.dtype = torch.float16,
    documents: Mapping[str, bytes] | None = None,
) -> Part:
    """Make the part of a network; its floating-point tensors are stored as `dtype`."""
    tensors = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in module.state_dict().items()
    }
    return Part(name, config, tensors, documents or {})


def save_parts(folder: str | Path, parts: Sequence[Part]) -> None:
    """Write parts into a checkpoint folder, all of them or none; other parts of the folder stay as they are.

    Raises:
        UserError: weights are not finite, or the folder's `config.json` is damaged; nothing is written.
    """
    folder = Path(folder)
    for part in parts:
        check_finite(part.tensors, f"part {part.name!r} for {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / CONFIG_NAME
        configs = read_json(path) if path.exists() else {}
        files = _files_of(configs, path)
        files |= {part.name: [vars(listed) for listed in _write_files(folder, part)] for part in parts}
        configs |= {part.name: part.config for part in parts}
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(configs | {FILES: files}, indent=2) + "\n", encoding="utf-8")
        _remove_unlisted(folder, files)


def save_part(
    folder: str | Path, name: str, config: dict[str, Any], module: nn.Module, dtype: torch.dtype = torch.float16
) -> None:
    """Write the weights and the configuration of one part; see `save_parts`."""
    save_parts(folder, [part_of(name, config, module, dtype)])


def save_config(folder: str | Path, name: str, config: dict[str, Any]) -> None:
    """Write or replace one entry of a checkpoint folder's configuration."""
    save_parts(folder, [Part(name, config)])


def replace_tensors(folder: str | Path, name: str, values: dict[str, Tensor]) -> None:
    """Write new values of some tensors of a part; the others, and the number formats, stay as they are.

    Raises:
        UserError: the part has no tensor of that name.
    """
    part = read_checkpoint(folder, lambda checkpoint: checkpoint.part(name))
    missing = values.keys() - part.tensors.keys()
    if missing:
        raise UserError(f"part {name!r} of {folder} has no {', '.join(sorted(missing))}")
    tensors = dict(part.tensors)
    for key, value in values.items():
        tensors[key] = value.to(tensors[key].dtype).view_as(tensors[key]).contiguous()
    save_parts(folder, [replace(part, tensors=tensors)])


class Checkpoint:
    """What a checkpoint folder holds, as its `config.json` said when this was made.

    Raises:
        FileNotFoundError: the folder is not a checkpoint.
        UserError: its `config.json` is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / CONFIG_NAME
        if not self.path.exists():
            neighbours = _neighbours(self.folder)
            raise FileNotFoundError(f"no model in {folder}: expected a folder with {CONFIG_NAME}{neighbours}")
        self.configs = read_json(self.path)
        self._files = _files_of(self.configs, self.path)

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of one part as it is stored."""
        if name not in self.configs:
            raise UserError(f"{self.path} has no part {name!r}, it has {sorted(self.configs)}")
        if not isinstance(self.configs[name], dict):
            raise UserError(f"{self.path}: {name} must be an object")
        return self.configs[name]

    def build_config(self, name: str, cls: type[T], saved: dict[str, Any] | None = None) -> T:
        """The configuration of one part as its dataclass; `saved` where it is not what is stored."""
        return build_config(cls, self.config(name) if saved is None else saved, f"{self.path}: {name}")

    def part(self, name: str) -> Part:
        """One part with its weights on the CPU, as they are stored, every file checked against the list.

        Raises:
            UserError: there is no such part, or one of its files is missing, damaged or another export's.
        """
        config = self.config(name)
        contents = self._listed(name) if name in self._files else self._found(name)
        tensors: dict[str, Tensor] = {}
        documents: dict[str, bytes] = {}
        for path, content in contents:
            if path.suffix == ".safetensors":
                tensors |= _parse_tensors(path, content)
            else:
                documents[f"{_stem(path)}{path.suffix}"] = content
        return Part(name, config, tensors, documents)

    def weights(self, name: str) -> dict[str, Tensor]:
        """The weights of one part, as float32."""
        tensors = self.part(name).tensors
        return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}

    def files(self, name: str) -> list[ListedFile]:
        """The files of a part that `config.json` lists."""
        where, entries = f"{self.path}: {FILES}.{name}", self._files[name]
        if not isinstance(entries, list):
            raise UserError(f"{where} must be a list")
        return [build_config(ListedFile, entry, where) for entry in entries]

    def _listed(self, name: str) -> Iterator[tuple[Path, bytes]]:
        """The contents of a part's files, in agreement with the list."""
        for listed in self.files(name):
            path = self.folder / listed.name
            content = _read_file(path, name)
            if len(content) != listed.bytes:
                raise UserError(f"{path} has {len(content)} bytes, {CONFIG_NAME} says {listed.bytes}: {REMEDY}")
            if hashlib.sha256(content).hexdigest() != listed.sha256:
                raise UserError(f"{path} is damaged or of another export (its SHA-256 is not the listed one): {REMEDY}")
            yield path, content

    def _found(self, name: str) -> Iterator[tuple[Path, bytes]]:
        """The weight files of a part in a folder without a list, and their contents."""
        files = [*self.folder.glob(f"{name}.safetensors"), *self.folder.glob(f"{name}-?????-of-?????.safetensors")]
        totals = {file.stem.rsplit("-of-", 1)[1] if "-of-" in file.stem else "00001" for file in files}
        if len(totals) > 1:
            raise UserError(f"{self.folder} holds weight files of two exports of part {name!r}: {REMEDY}")
        expected = totals.pop() if totals else "1"
        if not expected.isdecimal() or len(files) != int(expected):
            raise UserError(f"{self.folder} holds {len(files)} of {expected} weight files of part {name!r}: {REMEDY}")
        return ((file, _read_file(file, name)) for file in sorted(files))


REMEDY = "download or export the model again"


def read_checkpoint(folder: str | Path, read: Callable[[Checkpoint], T]) -> T:
    """Read from one state of a folder: again, if an export replaced it meanwhile.

    Raises:
        FileNotFoundError: the folder is not a checkpoint.
        UserError: it is damaged.
    """
    while True:
        checkpoint = Checkpoint(folder)
        try:
            return read(checkpoint)
        except UserError:
            now = Checkpoint(folder)
            if (now.configs, now._files) == (checkpoint.configs, checkpoint._files):
                raise


def has_part(folder: str | Path, name: str) -> bool:
    """Whether the checkpoint folder describes a part of this name."""
    return (Path(folder) / CONFIG_NAME).exists() and name in Checkpoint(folder).configs


def load_config(folder: str | Path, name: str) -> dict[str, Any]:
    """Read the configuration of one part; errors as of `Checkpoint`."""
    return Checkpoint(folder).config(name)


def load_part(folder: str | Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read configuration and weights of one part; weights are float32 on the CPU. Errors as of `Checkpoint.part`."""
    return read_checkpoint(folder, lambda checkpoint: (checkpoint.config(name), checkpoint.weights(name)))


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a weight file to the CPU: safetensors, or a pickled dictionary, of which nothing is run.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    return _parse_tensors(path, path.read_bytes())


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str | Path) -> None:
    """Load a state dict strictly; the module may be on the meta device.

    Raises:
        UserError: keys are missing or unknown, shapes differ, or values are not finite; lists the first few of them.
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
    check_finite(state, where)
    module.load_state_dict(state, assign=True)


def check_finite(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Refuse weights that a training has destroyed, or that are too large for the number format they are stored in.

    Raises:
        UserError: a value is infinite or not a number.
    """
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"weights in {where} are not finite ({key}, {value.dtype}): an earlier model is needed")


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


def _parse_tensors(path: Path, content: bytes) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - pickle raises anything
        kind = path.suffix.removeprefix(".") or "weight"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a valid {kind} file ({reason}), {REMEDY}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, expected a dictionary of tensors")
    return state


def _read_file(path: Path, part: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing, a file of part {part!r}: {REMEDY}") from None
    if content.startswith(LFS_POINTER):
        raise UserError(f"{path} is a git-LFS pointer instead of the file itself: run git lfs pull in its repository")
    return content


def _files_of(configs: dict[str, Any], path: Path) -> dict[str, Any]:
    """Take the list of files out of what a `config.json` holds."""
    files = configs.pop(FILES, {})
    if not isinstance(files, dict):
        raise UserError(f"{path}: {FILES} must be an object")
    return files


def _write_files(folder: Path, part: Part) -> list[ListedFile]:
    """Write the weights and documents of a part under names that no other content has."""
    shards = _split_into_shards(part.tensors)
    contents = []
    for index, shard in enumerate(shards, start=1):
        number = "" if len(shards) == 1 else f"-{index:05d}-of-{len(shards):05d}"
        contents.append((f"{part.name}{number}", ".safetensors", partial(save, shard)))
    for name, content in part.documents.items():
        contents.append((Path(name).stem, Path(name).suffix, partial(bytes, content)))
    listed = []
    for stem, suffix, make in contents:
        content = make()  # one at a time: a shard may be large
        digest = hashlib.sha256(content).hexdigest()
        path = folder / f"{stem}-{digest[:DIGEST_LENGTH]}{suffix}"
        with replacing(path) as unfinished:
            unfinished.write_bytes(content)
        listed.append(ListedFile(name=path.name, bytes=len(content), sha256=digest))
    return listed


def _split_into_shards(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = []
    size = 0
    for key, value in state.items():
        if not shards or size + value.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    return shards


def _remove_unlisted(folder: Path, files: Mapping[str, Any]) -> None:
    """Remove earlier files of the listed parts, and what killed processes left behind."""
    listed = {entry["name"] for entries in files.values() for entry in entries}
    stems = {_stem(Path(name)) for name in listed}
    for path in folder.iterdir():
        is_dead = path.name.startswith(".") and path.name.endswith((f"{PARTIAL}.safetensors", f"{PARTIAL}.json"))
        is_ours = path.name != CONFIG_NAME and path.suffix in (".safetensors", ".json") and _stem(path) in stems
        if is_dead or (is_ours and path.name not in listed):
            path.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    """The name of a file without its shard's number and its hash."""
    return re.sub(rf"(-\d{{5}}-of-\d{{5}})?(-[0-9a-f]{{{DIGEST_LENGTH}}})?$", "", path.stem)


def _neighbours(folder: Path) -> str:
    """Name the checkpoints beside a folder that is not one."""
    found = sorted(p.parent.name for p in folder.parent.glob(f"*/{CONFIG_NAME}")) if folder.parent.is_dir() else []
    return f"; {folder.parent} has {', '.join(found)}" if found else ""
