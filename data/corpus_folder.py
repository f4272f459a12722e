"""Writes the clips of a corpus as a folder of FLAC files with a manifest, in several processes.

`manifest.jsonl` has one line a clip: `path` (relative to the folder), `prompts`, and the clip's metadata. A clip is
listed once its file is complete, so an interrupted run leaves a valid set, and the same call continues it.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from data.audio_writer import write_audio
from data.folder import MANIFEST_NAMES
from data.synthetic import Clip
from models.errors import UserError
from models.files import replacing

Draw = Callable[[int], tuple[Clip, list[str]]]
"""Draws the clip of a seed, and all its captions; picklable (no function of a `__main__`)."""


def write_corpus(out: Path, draw: Draw, seeds: list[int], *, held_out: bool, num_processes: int) -> int:
    """Write the clips of these seeds that are not there yet; returns how many were.

    Args:
        out: folder to write to; made if its parent exists.
        num_processes: processes that draw; 1: this one.

    Raises:
        UserError: the folder holds a clip that is held out where these are not, or the other way round.
    """
    out.mkdir(exist_ok=True)
    manifest_path = out / MANIFEST_NAMES[0]
    entries = read_manifest(manifest_path)
    if any((entry["held_out"] is not None) != held_out for entry in entries):
        raise UserError(f"{manifest_path} holds clips of the other kind (held_out {not held_out}); use another folder")
    written = {entry["seed"] for entry in entries if (out / entry["path"]).exists()}
    missing = [seed for seed in seeds if seed not in written]
    jobs = [(draw, seed, out / f"{'held_out_' if held_out else ''}{seed:08d}.flac") for seed in missing]
    with manifest_path.open("a", encoding="utf-8") as manifest:
        lines = _in_processes(jobs, min(num_processes, len(jobs)))
        for line in tqdm(lines, initial=len(seeds) - len(jobs), total=len(seeds), unit="clip", desc=str(out)):
            manifest.write(line)
            manifest.flush()
    return len(missing)


def read_manifest(path: Path) -> list[dict]:
    """Entries of a manifest whose last line may be cut off; the cut line is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def _in_processes(jobs: list[tuple[Draw, int, Path]], num_processes: int) -> Iterator[str]:
    if num_processes <= 1:
        yield from map(_write_clip, jobs)
        return
    # Started anew rather than forked: a fork of a process with threads may hang.
    processes = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _ignore_interrupts)
    try:
        yield from processes.map(_write_clip, jobs)
    finally:
        processes.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_clip(job: tuple[Draw, int, Path]) -> str:
    """Draw and write a clip; returns its line of the manifest."""
    draw, seed, path = job
    clip, prompts = draw(seed)
    with replacing(path) as partial:
        write_audio(partial, clip.audio)
    return json.dumps({"path": path.name, "prompts": prompts, **clip.metadata}) + "\n"
