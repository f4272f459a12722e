"""Packages fetched by the machine's own clients: apt-get with a state of its own, so without root; pip for wheels.

Nothing is installed. apt checks the signatures of what it fetches; the hash of every file is checked after that.
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from data.recordings.table import ALTERNATIVES

logger = logging.getLogger(__name__)

WHEELS: frozenset[str] = frozenset()
"""Packages that come from the Python index; all others are Debian's."""


class PackageError(Exception):
    """A package that this machine's clients cannot get; the message says why."""


class Packages:
    """Fetches packages into a folder.

    Args:
        folder: for the packages and apt's lists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lists_are_fresh = False

    def fetch(self, package: str) -> Path:
        """Fetch a package, or another release's name for it, and return its file.

        Raises:
            PackageError: none of the names can be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if package in WHEELS:
            return self._fetch_into(package, [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package])
        if shutil.which("apt-get") is None:
            raise PackageError("this machine has no apt-get")
        reasons = []
        for name in (package, *ALTERNATIVES.get(package, ())):
            try:
                return self._fetch_into(name, [*self._apt(), "download", "--quiet", name])
            except PackageError as error:
                reasons.append(str(error))
        raise PackageError("; ".join(reasons))

    def _fetch_into(self, name: str, command: list[str]) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        _run(command, place)
        files = [path for path in place.iterdir() if path.suffix in (".deb", ".whl")]
        if len(files) != 1:
            raise PackageError(f"{command[0]} left {len(files)} files of {name}, expected one")
        return files[0]

    def _apt(self) -> list[str]:
        """Return apt-get with its own state; its lists are brought up to date once."""
        state, cache = self.folder / "apt" / "state", self.folder / "apt" / "cache"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = {
            "Dir::State": state.resolve(),
            "Dir::Cache": cache.resolve(),
            "Dir::State::status": "/var/lib/dpkg/status",
            "APT::Sandbox::User": "",
        }
        command = ["apt-get", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
        if not self._lists_are_fresh:
            logger.info("bringing apt's lists up to date")
            _run([*command, "update", "--quiet"], self.folder)
            self._lists_are_fresh = True
        return command


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise PackageError(lines[-1] if lines else f"{command[0]} ended with exit code {result.returncode}")
