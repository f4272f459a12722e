"""A SoundFont of a few kilobytes: every program a looped saw wave at the right pitch, every drum a burst of noise.

Layout: SoundFont Technical Specification 2.04, chapters 4 to 7.
"""

import struct
from pathlib import Path

import numpy as np

from data.instruments.grooves import KITS
from data.instruments.table import INSTRUMENTS

PERIOD, RATE = 100, 44_000  # 440 Hz
_PADDING = np.zeros(46, dtype="<i2")
_LOOP, _SAMPLE, _INSTRUMENT, _RELEASE = 54, 53, 41, 38


ALL_PROGRAMS = tuple(instrument.program for instrument in INSTRUMENTS.values())


def write_soundfont(path: Path, programs: tuple[int, ...] = ALL_PROGRAMS) -> Path:
    """Write the SoundFont with presets of these programs, and of all kits."""
    saw = np.tile((np.linspace(-1, 1, PERIOD, endpoint=False) * 9_000).astype("<i2"), 20)
    burst = np.random.default_rng(0).standard_normal(4_000) * np.exp(-np.arange(4_000) / 800) * 6_000
    sounds = [saw, burst.astype("<i2")]
    presets = [(0, program, 0) for program in programs]
    presets += [(128, kit.program, 1) for kit in KITS.values()]
    information = (
        _chunk(b"ifil", struct.pack("<HH", 2, 1)) + _chunk(b"isng", b"EMU8000\0") + _chunk(b"INAM", b"tiny\0\0")
    )
    samples = b"".join(part.tobytes() for sound in sounds for part in (sound, _PADDING))
    body = (
        b"sfbk"
        + _list(b"INFO", information)
        + _list(b"sdta", _chunk(b"smpl", samples))
        + _list(b"pdta", _tables(presets, sounds))
    )
    path.write_bytes(_chunk(b"RIFF", body))
    return path


def _tables(presets: list[tuple[int, int, int]], sounds: list[np.ndarray]) -> bytes:
    """The nine tables of presets, instruments and samples; each ends with a terminal record."""
    phdr = b"".join(
        struct.pack("<20sHHHIII", b"preset", program, bank, i, 0, 0, 0) for i, (bank, program, _) in enumerate(presets)
    ) + struct.pack("<20sHHHIII", b"EOP", 0, 0, len(presets), 0, 0, 0)
    pbag = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    pgen = b"".join(struct.pack("<Hh", _INSTRUMENT, instrument) for *_, instrument in presets) + bytes(4)
    inst = b"".join(struct.pack("<20sH", name, i) for i, name in enumerate((b"saw", b"burst", b"EOI")))
    generators = [[(_RELEASE, -2_400), (_LOOP, 1), (_SAMPLE, 0)], [(_RELEASE, -2_400), (_SAMPLE, 1)]]
    ibag = struct.pack("<6H", 0, 0, 3, 0, 5, 0)
    igen = b"".join(struct.pack("<Hh", *generator) for zone in generators for generator in zone) + bytes(4)
    shdr, start = b"", 0
    for sound, name in zip(sounds, (b"saw", b"burst"), strict=True):
        end = start + len(sound)
        loop = (start + PERIOD, start + 11 * PERIOD)
        shdr += struct.pack("<20sIIIIIBbHH", name, start, end, *loop, RATE, 69, 0, 0, 1)
        start = end + len(_PADDING)
    shdr += struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    tables = {b"phdr": phdr, b"pbag": pbag, b"pmod": bytes(10), b"pgen": pgen, b"inst": inst, b"ibag": ibag,
              b"imod": bytes(10), b"igen": igen, b"shdr": shdr}  # fmt: skip
    return b"".join(_chunk(name, content) for name, content in tables.items())


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def _list(name: bytes, content: bytes) -> bytes:
    return _chunk(b"LIST", name + content)
