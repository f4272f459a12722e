"""Tiny packages with tiny sounds, made on the spot."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile


def ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def debian_package(path: Path, files: Mapping[str, bytes], compression: str = "xz") -> Path:
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode=f"w:{compression}") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    members = ar_member("debian-binary", b"2.0\n") + ar_member("control.tar.xz", b"odd")
    path.write_bytes(b"!<arch>\n" + members + ar_member(f"data.tar.{compression}", tar_bytes.getvalue()))
    return path


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as package:
        for name, data in files.items():
            package.writestr(name, data)
    return content.getvalue()


def cat_bytes(sounds: Mapping[str, bytes]) -> bytes:
    """OpenTTD's format: offsets and lengths, then for each sound its name and a wav file."""
    bodies = [bytes([len(name) + 1]) + name.encode() + b"\0" + wav for name, wav in sounds.items()]
    table, offset = b"", 8 * len(bodies)
    for (_, wav), body in zip(sounds.items(), bodies, strict=True):
        table += struct.pack("<II", offset | 1 << 31, len(wav))
        offset += len(body)
    return table + b"".join(bodies)


@pytest.fixture
def wav() -> Callable[..., bytes]:
    def make(frequency: float, seconds: float = 0.25, channels: int = 1, rate: int = 44_100) -> bytes:
        tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
        content = io.BytesIO()
        soundfile.write(content, np.repeat(tone[:, None], channels, axis=1), rate, format="WAV", subtype="PCM_16")
        return content.getvalue()

    return make
