"""WebDataset shards: tar files in which the members of one sample share their name up to the first dot.

Shards are written whole or not at all, and read at random: members of an uncompressed tar lie in it as they are, so a
memory map gives any part of any array without reading the rest. What was read stays in the system's page cache, shared
by all processes. Any WebDataset reader can read the same files in sequence.
"""

import io
import json
import math
import mmap
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from models.errors import UserError
from models.files import replacing

SplitName = Callable[[str], tuple[str, str] | tuple[None, None]]
"""A member's name -> the key of its sample and its extension, or nothing for a member that counts for none."""


def split_at_first_dot(name: str) -> tuple[str, str]:
    """WebDataset's rule."""
    key, _, extension = Path(name).name.partition(".")
    return key, extension


def _least_bytes(end: int) -> int:
    """Least size of a tar file whose last member ends at byte `end`: whole blocks, and two empty ones."""
    return (-(-end // tarfile.BLOCKSIZE) + 2) * tarfile.BLOCKSIZE


class ShardWriter:
    """Writes one shard; the file gets its name when it is complete (an error or Ctrl-C leaves nothing).

    Members are `.npy` for arrays and `.json` for the rest, in the order given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            self._tar = stack.enter_context(tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT))
            self._stack = stack.pop_all()
        return self

    def write(self, key: str, members: Mapping[str, Any]) -> None:
        """Append a sample.

        Args:
            key: its name; no dot.
            members: extension without the type's suffix -> array, or anything JSON can hold; or the whole extension ->
                the content of a file.
        """
        if "." in key:
            raise ValueError(f"a sample's key must not hold a dot, got {key!r}")
        for name, value in members.items():
            if isinstance(value, bytes):
                self._add(f"{key}.{name}", value)
            elif isinstance(value, np.ndarray):
                buffer = io.BytesIO()
                np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
                self._add(f"{key}.{name}.npy", buffer.getvalue())
            else:
                self._add(f"{key}.{name}.json", json.dumps(value, ensure_ascii=False).encode())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


class Shard:
    """A shard's samples, read at random. Cheap to pickle: the file is mapped where it is used.

    Args:
        split: a member's name -> sample and extension; none: at its first dot.

    Raises:
        UserError: not a tar file, or one that breaks off.
    """

    def __init__(self, path: Path, split: SplitName | None = None) -> None:
        self.path = path
        self._places: dict[str, dict[str, tuple[int, int]]] = {}
        end = 0
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        key, extension = (split or split_at_first_dot)(member.name)
                        if key is None or extension is None:
                            continue
                        self._places.setdefault(key, {})[extension] = (member.offset_data, member.size)
                        end = member.offset_data + member.size
        except tarfile.TarError as error:
            raise UserError(f"{path} is no shard: {error}") from error
        if path.stat().st_size < _least_bytes(end):
            raise UserError(f"shard {path} breaks off; write it again")
        self.keys = list(self._places)
        self._arrays: dict[tuple[str, str], tuple[np.dtype, tuple[int, ...], int]] = {}
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def array(self, key: str, name: str) -> np.ndarray:
        """Return the array member `name` of a sample; only the parts that are used are read."""
        dtype, shape, offset = self._arrays.get((key, name)) or self._parse_header(key, name)
        return np.frombuffer(self._buffer(), dtype, math.prod(shape), offset).reshape(shape)

    def members(self, key: str) -> dict[str, bytes]:
        """Return the content of all members of a sample by their extensions."""
        places = self._places[key].items()
        return {extension: self._buffer()[offset : offset + size] for extension, (offset, size) in places}

    def json(self, key: str, name: str) -> Any:
        """Return the JSON member `name` of a sample."""
        offset, size = self._place(key, f"{name}.json")
        return json.loads(self._buffer()[offset : offset + size])

    def _parse_header(self, key: str, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
        """Return an array's type, shape and where its values begin."""
        buffer = self._buffer()
        buffer.seek(self._place(key, f"{name}.npy")[0])
        version = np.lib.format.read_magic(buffer)  # pyright: ignore[reportArgumentType]
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(buffer)  # pyright: ignore[reportArgumentType]
        if fortran_order or dtype.hasobject:
            raise ValueError(f"{self.path}: {key}.{name}.npy must be a plain array in C order")
        self._arrays[key, name] = (dtype, shape, buffer.tell())
        return self._arrays[key, name]

    def _place(self, key: str, extension: str) -> tuple[int, int]:
        try:
            return self._places[key][extension]
        except KeyError:
            raise UserError(f"shard {self.path} has no member {key}.{extension}") from None

    def _buffer(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map
