"""Writes the corpus as audio files: `python -m data.synthetic --out DIR --clips 1000`; see `data.corpus_folder`."""

import functools
import logging
import os
from pathlib import Path

from data.cli import run
from data.corpus_folder import write_corpus
from data.synthetic.draw import draw_captioned
from models.errors import UserError

logger = logging.getLogger(__name__)


def main(
    out: Path,
    clips: int,
    seed: int = 0,
    held_out: bool = False,
    captions: int = 8,
    processes: int = os.cpu_count() or 1,
) -> None:
    """Write clips of the procedural corpus as FLAC files with a manifest; continue where an earlier run stopped.

    Args:
        out: folder to write to; made if its parent exists.
        clips: how many clips the folder shall hold.
        seed: seed of the first clip; clip i has seed + i.
        held_out: write clips with held-out combinations and wordings instead of training clips.
        captions: captions of a clip.
        processes: processes that draw at the same time.
    """
    for name, value, least in (("clips", clips, 1), ("seed", seed, 0), ("captions", captions, 1)):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    seeds = list(range(seed, seed + clips))
    one = functools.partial(draw_captioned, held_out=held_out, num_captions=captions)
    write_corpus(out, one, seeds, held_out=held_out, num_processes=processes)
    logger.info("%d clips in %s", clips, out)


if __name__ == "__main__":
    run(main)
