"""What a command writes: names, checks before anything expensive is done, and one writer per file."""

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.audio_writer import WRITER_SUFFIXES
from models.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open for writing cannot be opened again
    fcntl = None

MAX_SECONDS = 10_000_000.0
"""Longest sound that can be asked for (s), 115 days; longer is --endless."""
MAX_SEED = 2**63 - 1


def check_output(path: Path, *, overwrite: bool = False, num_bytes: int = 0) -> None:
    """Refuse a sound file that cannot be written.

    Args:
        num_bytes: size that it will have at least.

    Raises:
        UserError: the suffix is none that can be written, the path is a folder, or the file exists.
        FileNotFoundError: the folder does not exist.
        OSError: the folder cannot be written, or the disk has no room.
    """
    check_file(path, overwrite=overwrite, num_bytes=num_bytes)
    if path.suffix.lower() not in WRITER_SUFFIXES:
        raise UserError(f"cannot write {path}: expected a name ending in {', '.join(WRITER_SUFFIXES)}")


def check_file(path: Path, *, overwrite: bool = False, num_bytes: int = 0) -> None:
    """Refuse a file of any kind that cannot be written; as `check_output`."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, give a file name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already: choose another name, or replace it with --overwrite")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "cannot write", str(path))
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise OSError(
            errno.ENOSPC, f"no space left: it needs {num_bytes / 2**20:.1f} MiB of {free / 2**20:.1f} MiB", str(path)
        )


@contextmanager
def claimed(path: Path, overwrite: bool) -> Iterator[None]:
    """Hold a file that is about to be written, so that no second process writes it; it exists from then on.

    Raises:
        UserError: it exists and may not be replaced, or another process holds it.
    """
    flags = os.O_CREAT | os.O_WRONLY | (0 if overwrite else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileExistsError:
        raise UserError(f"{path} exists already: choose another name, or replace it with --overwrite") from None
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path} is being written by another process") from None
        yield
    finally:
        os.close(descriptor)


def check_seconds(seconds: float, name: str = "seconds") -> None:
    """Refuse a length that is no length."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"{name} must be a number above 0, got {seconds:g}")
    if seconds > MAX_SECONDS:
        raise UserError(f"{name} must be at most {MAX_SECONDS:g}, got {seconds:g}")


def check_seed(seed: int, num_samples: int = 1) -> None:
    """Refuse seeds, `num_samples` of them from `seed` on, that a generator does not take."""
    if not 0 <= seed <= MAX_SEED - num_samples:
        raise UserError(f"seed must lie between 0 and {MAX_SEED - num_samples}, got {seed}")


def file_name(prompt: str, seed: int, suffix: str = ".wav") -> str:
    """Name a file after what is in it: heavy-rain-with-distant-thunder-0.wav."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    words = words[:60].encode()[:180].decode("utf-8", "ignore")
    return f"{words.rstrip('-_') or 'sound'}-{seed}{suffix}"
