"""Which recordings are wanted: a table for each package, with licence, author, caption and hash of every file.

tables/PACKAGE.tsv has the columns sha256, file (our name for it), kind, licence, author, role and caption; " / " parts
alternative captions. A recording is known by its hash alone, so that a package may move or rename its files.

kind     music, effect, loop; and one-shots: note, strum (role "A minor/down"), drum (role "kit/piece")
tier     what a licence asks of who passes the recording on: nothing, credit, the same licence, or that of a program
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Kind = Literal["music", "effect", "loop", "note", "strum", "drum"]
Tier = Literal["free", "attribution", "share-alike", "gpl"]

TIERS: tuple[Tier, ...] = ("free", "attribution", "share-alike", "gpl")
"""Each adds its licences to those before it."""
TIER_OF_LICENCE: dict[str, Tier] = {
    "public-domain": "free",
    "CC0-1.0": "free",
    "MIT": "free",
    "CC-BY-3.0": "attribution",
    "CC-BY-4.0": "attribution",
    "CC-BY-SA-3.0": "share-alike",
    "CC-BY-SA-4.0": "share-alike",
    "GPL-2+": "gpl",
}
ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "minetest-data": ("minetest-game",),
    "wesnoth-1.16-data": ("wesnoth-1.18-data",),
    "wesnoth-1.16-music": ("wesnoth-1.18-music",),
}
"""Names under which other releases have a package's files."""
HELD_OUT_SHARE = 1 / 8


@dataclass(frozen=True)
class Recording:
    """One wanted file."""

    package: str
    sha256: str
    file: str
    """Path below the package's own folder of `sources`."""
    kind: Kind
    licence: str
    author: str
    role: str
    caption: str

    @property
    def path(self) -> str:
        """Where the file lies below the output folder."""
        return f"sources/{self.package}/{self.file}"

    @property
    def tier(self) -> Tier:
        return TIER_OF_LICENCE[self.licence]

    @property
    def captions(self) -> list[str]:
        """All wordings of the caption; a strum's say its chord."""
        if self.kind == "strum":
            chord = self.role.split("/")[0]
            return [f"acoustic guitar strum, {chord}", f"{chord} chord strummed on an acoustic guitar"]
        return self.caption.split(" / ")

    @cached_property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation, never to be trained on."""
        return int(self.sha256[:8], 16) < HELD_OUT_SHARE * 2**32


def read_table(folder: Path = Path(__file__).parent / "tables") -> list[Recording]:
    """Read the tables of all packages."""
    recordings = []
    for path in sorted(folder.glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            recordings += [Recording(package=path.stem, **row) for row in rows]  # pyright: ignore[reportArgumentType]
    return recordings


def up_to(recordings: Iterable[Recording], tier: Tier) -> list[Recording]:
    """Return the recordings whose licences ask for no more than a tier's."""
    allowed = TIERS[: TIERS.index(tier) + 1]
    return [recording for recording in recordings if recording.tier in allowed]
