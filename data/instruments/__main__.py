"""Writes pieces played by instruments as audio files: `python -m data.instruments --out DIR --hours 10`.

See `data.corpus_folder` for the folder; `data.folder`, `data.latents` and all trainings read it.
"""

import functools
import logging
import os
from itertools import count
from pathlib import Path

from data.cli import run
from data.corpus_folder import write_corpus
from data.instruments.clip import draw_captioned, plan_clip
from data.instruments.soundfont import find_soundfont, open_soundfont
from models.errors import UserError

logger = logging.getLogger(__name__)


def seeds_of(hours: float, seed: int, held_out: bool) -> list[int]:
    """Seeds from `seed` on whose clips last so many hours together."""
    seeds, left = [], 3600 * hours
    for number in count(seed):
        if left <= 0:
            return seeds
        left -= plan_clip(number, held_out=held_out)[2]["seconds_total"]
        seeds.append(number)
    raise AssertionError


def main(
    out: Path,
    hours: float = 10.0,
    seed: int = 0,
    soundfont: Path | None = None,
    held_out: bool = False,
    captions: int = 8,
    processes: int = os.cpu_count() or 1,
) -> None:
    """Write pieces played by a SoundFont as FLAC files with a manifest; continue where an earlier run stopped.

    Args:
        out: folder to write to; made if its parent exists.
        hours: how much sound the folder shall hold.
        seed: seed of the first clip; clip i has seed + i.
        soundfont: a General MIDI SoundFont (sf2 or sf3); none: the installed FluidR3 GM or MuseScore General.
        held_out: write clips with held-out combinations and wordings instead of training clips.
        captions: captions of a clip.
        processes: processes that draw at the same time.
    """
    if hours <= 0:
        raise UserError(f"hours must be positive, got {hours:g}")
    for name, value, least in (("seed", seed, 0), ("captions", captions, 1), ("processes", processes, 1)):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    font = find_soundfont(soundfont)
    open_soundfont(font)  # what is wrong with it is said once, before anything starts
    seeds = seeds_of(hours, seed, held_out)
    one = functools.partial(draw_captioned, soundfont=font, held_out=held_out, num_captions=captions)
    written = write_corpus(out, one, seeds, held_out=held_out, num_processes=processes)
    logger.info("%s: %d clips, %d of them new, played by %s", out, len(seeds), written, font.name)


if __name__ == "__main__":
    run(main)
