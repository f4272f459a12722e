"""Pack audio into WebDataset shards, which train from disks, web servers and object stores alike (`--data.shards`).

    python -m data.shards my_audio shards [--format flac] [--num_workers 8]

IN is a folder or a manifest (`data.folder`). Every file is decoded once, so that damaged, silent, too short and doubled
ones are left out by name. A sample is the audio file as it is (or as flac), and its metadata as JSON with its "path".
Samples are mixed over the shards. It can be stopped: the same command goes on where it stopped.
"""

import collections
import dataclasses
import hashlib
import io
import json
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

from data.audio import SAMPLE_RATE, AudioFile
from data.captions import find_captions
from data.cli import run
from data.filters import FilterConfig, Inspection, from_record, inspect, reasons
from data.folder import Entry, list_entries
from data.interrupts import Interrupts
from data.tar_shards import ShardWriter
from models.errors import UserError, check_bounds
from models.files import replacing

logger = logging.getLogger(__name__)

Format = Literal["as_is", "flac"]
INDEX_NAME = "index.json"
_JOURNAL_NAME = ".inspected.jsonl"
_NAMED = 10

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def main(
    source: Path,
    out: Path,
    format: Format = "as_is",
    filter: FilterConfig = FilterConfig(),  # noqa: B008
    shard_megabytes: int = 512,
    num_workers: int = 2,
) -> None:
    """Pack audio files with their metadata into WebDataset shards; finished shards are kept.

    Args:
        source: a folder of audio with captions, or a manifest.
        out: folder for the shards and index.json; made if its parent exists.
        format: audio files as they are, or as 16-bit flac at 44,100 Hz, stereo, which every reader decodes fast.
        filter: what is left out.
        shard_megabytes: audio in a shard (MB), about.
        num_workers: processes; 0: this one alone.
    """
    check_bounds("shard_megabytes", shard_megabytes, 1, 100_000)
    check_bounds("num_workers", num_workers, 0, 1_024)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    entries = list_entries(source)
    out.mkdir(exist_ok=True)
    with Interrupts():
        clips = inspect_entries(entries, out / _JOURNAL_NAME, num_workers)
        names = [entry.name.as_posix() for entry in entries]
        left_out = reasons(filter, zip(names, clips, strict=True))
        kept = [(entry, clip) for entry, name, clip in zip(entries, names, clips, strict=True) if name not in left_out]
        if not kept:
            raise UserError(f"nothing is left of {source}: {_summary(left_out)}")
        tasks = plan(kept, out, format, shard_megabytes * 1_000_000)
        write_index(out, format, tasks, left_out, num_workers)
    seconds = sum(clip.seconds for _, clip in kept)
    uncaptioned = sum(not find_captions(entry.read_metadata()) for entry, _ in kept)
    sys.stdout.write(
        f"{len(kept)} files, {seconds / 3600:.2f} h, in {len(tasks)} shards; {uncaptioned} without a caption\n"
        f"left out: {_summary(left_out)}\n"
    )


def inspect_entries(entries: Sequence[Entry], journal: Path, num_workers: int) -> list[Inspection]:
    """Decode every file once; what an earlier run found is read from its journal, as long as the file is the same."""
    known = _read_journal(journal)
    tasks = [(entry, _stamp(entry)) for entry in entries]
    missing = [task for task in tasks if task[1] not in known]
    with journal.open("a", encoding="utf-8") as file:
        for stamp, clip in _in_parallel(_inspect, missing, num_workers, "inspect", "file"):
            known[stamp] = clip
            file.write(json.dumps({"stamp": stamp, **dataclasses.asdict(clip)}) + "\n")
    return [known[stamp] for _, stamp in tasks]


def _read_journal(journal: Path) -> dict[str, Inspection]:
    known: dict[str, Inspection] = {}
    for line in journal.read_text(encoding="utf-8").split("\n") if journal.is_file() else []:
        try:
            record = json.loads(line)
            stamp = record.pop("stamp")
            known[stamp] = from_record(record)
        except (ValueError, KeyError, AttributeError):
            continue  # half a line of a run that was killed
    return known


def _stamp(entry: Entry) -> str:
    """What changes when a file does."""
    try:
        status = entry.path.stat()
    except OSError:
        return entry.name.as_posix()
    return f"{entry.name.as_posix()} {status.st_size} {status.st_mtime_ns}"


def _inspect(task: tuple[Entry, str]) -> tuple[str, Inspection]:
    entry, stamp = task
    try:
        entry.read_metadata()
        with AudioFile(entry.path) as file:
            return stamp, inspect(file)
    except (UserError, OSError, ModuleNotFoundError) as error:
        return stamp, Inspection(0.0, 0.0, "", f"cannot be read: {error}")


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard to write."""

    path: Path
    format: Format
    entries: tuple[Entry, ...]
    seconds: float
    digest: str
    """Hash of what it holds: another selection of files makes another shard."""


def plan(kept: Sequence[tuple[Entry, Inspection]], out: Path, format: Format, shard_bytes: int) -> list[ShardTask]:
    """Divide the files among shards of about equal size, in an order that mixes them and depends on them alone."""
    order = sorted(kept, key=lambda pair: hashlib.sha256(pair[0].name.as_posix().encode()).digest())
    groups: list[list[tuple[Entry, Inspection]]] = [[]]
    size = 0
    for entry, clip in order:
        size += entry.path.stat().st_size
        if size > shard_bytes and groups[-1]:
            groups.append([])
            size = entry.path.stat().st_size
        groups[-1].append((entry, clip))
    tasks = []
    for number, group in enumerate(groups):
        content = [format, *(f"{_stamp(entry)} {entry.read_metadata()}" for entry, _ in group)]
        digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
        entries, seconds = tuple(entry for entry, _ in group), sum(clip.seconds for _, clip in group)
        tasks.append(ShardTask(out / f"{number:05d}.tar", format, entries, seconds, digest))
    return tasks


def write_index(
    out: Path, format: Format, tasks: Sequence[ShardTask], left_out: dict[str, str], num_workers: int
) -> None:
    """Write the missing shards, and say in index.json what the folder holds.

    Raises:
        UserError: the folder holds shards of other files.
    """
    done = _read_index(out)
    if done and any(done.get(task.path.name, {}).get("digest", task.digest) != task.digest for task in tasks):
        raise UserError(f"{out} holds shards of other files or settings: choose another folder, or delete it")
    missing = [task for task in tasks if task.path.name not in done or not task.path.is_file()]
    if len(missing) < len(tasks):
        logger.info("%d of %d shards are already there", len(tasks) - len(missing), len(tasks))
    for task, size in _in_parallel(_write_shard, missing, num_workers, "write", "shard"):
        done[task.path.name] = {
            "clips": len(task.entries), "bytes": size, "seconds": round(task.seconds, 3), "digest": task.digest
        }  # fmt: skip
        index = {"format": format, "shards": dict(sorted(done.items())), "left_out": left_out}
        with replacing(out / INDEX_NAME) as partial:
            partial.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _read_index(out: Path) -> dict[str, dict[str, Any]]:
    path = out / INDEX_NAME
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["shards"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no index of audio shards: choose another folder") from None


def _write_shard(task: ShardTask) -> tuple[ShardTask, int]:
    with ShardWriter(task.path) as writer:
        for number, entry in enumerate(task.entries):
            suffix, content = _content(entry, task.format)
            metadata = entry.read_metadata() | {"path": entry.name.as_posix()}
            # Readers split names at their first dot; the key holds none.
            writer.write(f"{task.path.stem}-{number:06d}", {suffix: content, "json": json.dumps(metadata).encode()})
    return task, task.path.stat().st_size


def _content(entry: Entry, format: Format) -> tuple[str, bytes]:
    if format == "as_is":
        return entry.path.suffix.lower()[1:], entry.path.read_bytes()
    buffer = io.BytesIO()
    with AudioFile(entry.path) as file, soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 2, "PCM_16", format="FLAC") as to:
        for piece in file.pieces(1 << 20):
            to.write(np.ascontiguousarray(piece.T.clip(-1, 1)))
    return "flac", buffer.getvalue()


def _in_parallel(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], num_workers: int, what: str, unit: str
) -> Iterator[_Result]:
    """Yield the results in order, with a bar."""
    if not num_workers or len(tasks) < 2:
        yield from tqdm(map(function, tasks), total=len(tasks), desc=what, unit=unit, disable=not tasks)
        return
    with multiprocessing.get_context("spawn").Pool(min(num_workers, len(tasks)), _ignore_interrupts) as pool:
        yield from tqdm(pool.imap(function, tasks), total=len(tasks), desc=what, unit=unit)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _summary(left_out: dict[str, str]) -> str:
    """Say how many were left out for which reason, and name some."""
    if not left_out:
        return "nothing"
    kinds = collections.Counter(reason.split(":")[0].split(" as ")[0] for reason in left_out.values())
    counted = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    named = "; ".join(f"{name} ({reason})" for name, reason in list(left_out.items())[:_NAMED])
    return f"{len(left_out)} files ({counted}): {named}" + (" ..." if len(left_out) > _NAMED else "")


if __name__ == "__main__":
    run(main, positionals=("source", "out"))
