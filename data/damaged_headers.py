"""Audio files whose header does not say what they hold, as stopped recorders, cut copies and joined files have them.

libsndfile believes a header: of a wav file that states no length it reads nothing, of one that was cut it reads the
rest without a word, and of several mp3 files joined to one it reads the first. `look` says how such a file must be read
so that all sound in it is heard.
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

# Lengths from here on are what programs write that cannot know the length, for a pipe for instance.
_PLACEHOLDER_BYTES = 0x7FFF_F000
_MAX_CHUNKS = 1_000
_CHUNKS_AFTER_DATA = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"iXML")
_MP3_SEARCH_BYTES = 16_384
_HAS_SEEK_TABLE = 4  # in the flags of a Xing tag
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class Patched(io.RawIOBase):
    """A file some of whose bytes read as others.

    Args:
        file: open for reading; closed with this.
        patches: place -> bytes that stand there instead.
    """

    def __init__(self, file: BinaryIO, patches: dict[int, bytes]) -> None:
        self._file = file
        self._patches = patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:
        start = self._file.tell()
        view = memoryview(buffer).cast("B")
        num = self._file.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]
        for place, content in self._patches.items():
            first, last = max(place, start), min(place + len(content), start + num)
            if first < last:
                view[first - start : last - start] = content[first - place : last - place]
        return num

    def close(self) -> None:
        self._file.close()
        super().close()


def look(file: BinaryIO, size: int) -> tuple[dict[int, bytes], str]:
    """Return what must read otherwise so that all sound in a file is read, and a remark for the user, or nothing.

    Args:
        file: open.
        size: its bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _look_at_wav(file, size)
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return _look_at_mp3(file, size)
    return {}, ""


def _look_at_wav(file: BinaryIO, size: int) -> tuple[dict[int, bytes], str]:
    place, bytes_per_second = 12, 0
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        header = file.read(8)
        if len(header) < 8:
            return {}, ""
        name, length = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"fmt ":
            bytes_per_second = struct.unpack("<I", file.read(12)[8:12])[0]
        if name == b"data":
            break
        place += 8 + length + length % 2
    else:
        return {}, ""
    available = size - place - 8
    if length == 0 and available > 0 and file.read(4) not in _CHUNKS_AFTER_DATA:
        patch = struct.pack("<I", min(available, 0xFFFF_FFFF))
        return {4: struct.pack("<I", min(size - 8, 0xFFFF_FFFF)), place + 4: patch}, (
            "its header states no length, as of a recorder that was stopped; all that follows is read"
        )
    if available < length < _PLACEHOLDER_BYTES and bytes_per_second:
        return {}, (
            f"it was cut: its header states {length / bytes_per_second:.1f} s, "
            f"there are {max(0, available) / bytes_per_second:.1f} s"
        )
    return {}, ""


def _look_at_mp3(file: BinaryIO, size: int) -> tuple[dict[int, bytes], str]:
    place = _next_frame(file, 0, size)
    if place is None:
        return {}, ""
    file.seek(place)
    frame = file.read(200)
    tag = max(frame.find(b"Xing", 0, 60), frame.find(b"Info", 0, 60))
    if tag < 0:
        return {}, ""
    flags, _, num_bytes = struct.unpack(">III", frame[tag + 4 : tag + 16])
    if flags & 3 != 3:
        return {}, ""
    if _next_frame(file, place + num_bytes, size) is None:
        return {}, ""
    rates = list(_frame_rates(file, place))
    if len(set(rates)) > 1:
        known = " and ".join(map(str, dict.fromkeys(rates)))
        return {}, f"several recordings of different sample rates ({known} Hz) are joined in it; the first is read"
    totals = struct.pack(">III", flags & ~_HAS_SEEK_TABLE, len(rates) - 1, size - place)  # the tag itself is a frame
    return {place + tag + 4: totals}, "several recordings are joined in it; all of them are read"


def _frame_rates(file: BinaryIO, start: int) -> Iterator[int]:
    """Yield the sample rate of every frame from `start` on; what stands between frames is skipped."""
    file.seek(start)
    content, place, is_chained = file.read(), 0, True
    while place >= 0:
        found = _frame(content[place : place + 4])
        end = place + found[0] if found else place
        if found and (is_chained or _frame(content[end : end + 4])):
            yield found[1]
            place, is_chained = end, True
        else:
            place, is_chained = content.find(b"\xff", place + 1), False


def _next_frame(file: BinaryIO, start: int, size: int) -> int | None:
    """Return the place of the first mp3 frame from `start` on that another one follows, soon after it."""
    file.seek(start)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    content = file.read(_MP3_SEARCH_BYTES)
    for offset in _syncs(content):
        if found := _frame(content[offset : offset + 4]):
            end = offset + found[0]
            if _frame(content[end : end + 4]) or start + end >= size:
                return start + offset
    return None


def _syncs(content: bytes) -> Iterator[int]:
    place = content.find(b"\xff")
    while place >= 0:
        yield place
        place = content.find(b"\xff", place + 1)


def _frame(header: bytes) -> tuple[int, int] | None:
    """Return length (bytes) and sample rate of an mp3 frame from its header. Source: ISO/IEC 11172-3, 2.4.1.3."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # layer III
        return None
    version, bitrate, rate_index = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in _MP3_RATES or bitrate in (0, 15) or rate_index == 3:
        return None
    rate = _MP3_RATES[version][rate_index]
    if version == 3:
        kilobits, samples = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[bitrate - 1], 1_152
    else:
        kilobits, samples = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[bitrate - 1], 576
    return samples // 8 * kilobits * 1_000 // rate + (header[2] >> 1 & 1), rate
