"""Files that appear whole or not at all.

What is written goes to a name beside the target, is synced to the disk, and takes the target's name in one step. Killed
at any moment, a process leaves the old file or the new one, and at worst a `.partial` one that nobody reads.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""In the name of what is not finished yet, before the suffix, which tells writers the format."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, in the same folder; without an error it replaces `path` afterwards.

        with replacing(path) as partial:
            partial.write_text(...)

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write into a folder; others wait. Not on Windows, which locks no folders."""
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
