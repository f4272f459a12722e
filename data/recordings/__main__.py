"""Fetches freely licensed recordings and makes a folder of clips with captions: `python -m data.recordings --out DIR`.

Packages come through the machine's own clients, without root and without installing; every file is checked by its
sha256. What `data.folder` then reads, and DIR/ATTRIBUTION.md, are described in `data.recordings.folder`. Run again, it
continues, and looks for what was missing.
"""

import logging
import shutil
from pathlib import Path

from data.cli import run
from data.recordings.attribution import attribution
from data.recordings.collect import Collection
from data.recordings.folder import build
from data.recordings.packages import Packages
from data.recordings.table import Tier, read_table, up_to
from models.errors import UserError
from models.files import replacing

logger = logging.getLogger(__name__)

WARNINGS: dict[Tier, str] = {
    "share-alike": "tier share-alike: whoever hands on weights trained on this folder may have to put them under the "
    "same CC-BY-SA licence; do not mix it into a model that is to be under MIT",
    "gpl": "tier gpl: for a training of your own; its recordings are under licences made for programs, which do not go "
    "together with each other or with CC-BY-SA; do not hand on weights trained on this folder",
}


def main(out: Path, tier: Tier = "attribution", packages: Path | None = None) -> None:
    """Fetch recordings and write a folder of clips; continue where an earlier run stopped.

    Args:
        out: folder to write to; made if its parent exists. About 3 GB.
        tier: what the licences may ask for: "free" nothing (public domain, CC0, MIT), "attribution" credit too (CC-BY),
            "share-alike" also the same licence (CC-BY-SA), "gpl" also GPL.
        packages: a folder of Debian packages, wheels or unpacked files to look in first; what it lacks is fetched.
    """
    if packages is not None and not packages.exists():
        raise UserError(f"no such folder of packages: {packages}")
    out.mkdir(exist_ok=True)
    if tier in WARNINGS:
        logger.warning(WARNINGS[tier])
    collection = Collection(out, up_to(read_table(), tier))
    if packages is not None and collection.missing:
        collection.search(packages)
    collection.fetch(Packages(out / "packages"))
    collection.report()
    if not collection.found:
        raise UserError(f"none of the {len(collection.wanted)} recordings could be had; nothing was written to {out}")
    with replacing(out / "ATTRIBUTION.md") as partial:
        partial.write_text(attribution(collection.found), encoding="utf-8")
    build(out, collection.found)
    shutil.rmtree(out / "packages", ignore_errors=True)
    logger.info("%d of %d recordings in %s", len(collection.found), len(collection.wanted), out)


if __name__ == "__main__":
    run(main)
