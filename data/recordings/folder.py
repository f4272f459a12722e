"""A folder of clips that `data.folder` reads, made of verified recordings.

sources/      the recordings, as they came
clips/        windows and rhythms made of one-shots
manifest.jsonl        training: everything, in balance; a long recording is listed once for each 8 s of it
music.jsonl, instruments.jsonl, effects.jsonl     the same, a group each
held_out.jsonl        clips of recordings that are in no other manifest
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from data.audio import read_audio
from data.audio_writer import write_audio
from data.loading import random_generator
from data.recordings.plans import Group, Plan, render
from data.recordings.rhythms import plan_drums, plan_strumming, pool
from data.recordings.table import Recording
from data.recordings.windows import Source, plan_loop, plan_window
from models.files import replacing

logger = logging.getLogger(__name__)

GROUPS: dict[str, Group] = {
    "music": "music", "effect": "effects", "loop": "instruments", "note": "instruments", "strum": "instruments",
    "drum": "instruments",
}  # fmt: skip
CLIPS_PER_CAPTION = {"effect": 16, "note": 8, "drum": 3, "strum": 1, "loop": 8}
RHYTHMS = 400
"""Strummed clips, and as many of drums; the held-out part has an eighth."""
LONG_SECONDS = 8.0
"""From here on a recording is used as it is, in crops."""
MUSIC_WEIGHT = 3
"""Rows for each 8 s of music, of which there are few pieces."""


def build(out: Path, recordings: list[Recording]) -> None:
    """Render the clips that are not there yet, and write the manifests."""
    sources = {recording: _source(out, recording) for recording in recordings}
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for held_out, part in rows.items():
        chosen = [source for source in sources.values() if source.recording.held_out == held_out]
        part += [_whole_row(source) for source in chosen if _is_whole(source) for _ in range(_weight(source, held_out))]
        plans = [plan for plan in _plans([source for source in chosen if not _is_whole(source)], held_out) if plan]
        part += _render_all(out, plans, "held-out clips" if held_out else "clips")
    _write_manifest(out / "manifest.jsonl", rows[False])
    for group in sorted(set(GROUPS.values())):
        _write_manifest(out / f"{group}.jsonl", [row for row in rows[False] if row["group"] == group])
    _write_manifest(out / "held_out.jsonl", rows[True])


def _plans(sources: list[Source], held_out: bool) -> Iterator[Plan | None]:
    folder = "clips/held_out" if held_out else "clips"
    same_caption = Counter(source.recording.caption or source.recording.role for source in sources)
    for source in sources:
        recording = source.recording
        shared = same_caption[recording.caption or recording.role]
        count = 1 if held_out else max(1, round(CLIPS_PER_CAPTION[recording.kind] / shared))
        for number in range(count):
            stem = recording.file.replace("/", "-").rsplit(".", 1)[0]
            name = f"{folder}/{recording.kind}/{recording.package}-{stem}-{number}.flac"
            if recording.kind == "loop":
                yield plan_loop(source, name, _generator(name))
            else:
                yield plan_window(source, GROUPS[recording.kind], name, _generator(name))
    recordings = [source.recording for source in sources]
    chords, kits = pool(recordings, "strum"), pool(recordings, "drum")
    # A rhythm is drawn from whatever is at hand, so its name says what that was.
    pooled = hashlib.sha256("".join(sorted(r.sha256 for r in recordings if r.role)).encode()).hexdigest()[:8]
    for number in range(RHYTHMS // 8 if held_out else RHYTHMS):
        if chords:
            name = f"{folder}/strumming/{pooled}-{number:04d}.flac"
            yield plan_strumming(chords, name, _generator(name))
        name = f"{folder}/drums/{pooled}-{number:04d}.flac"
        yield plan_drums(kits, name, _generator(name))


def _render_all(out: Path, plans: list[Plan], description: str) -> list[dict[str, Any]]:
    read = lru_cache(maxsize=1024)(lambda recording: read_audio(out / recording.path))
    rows = []
    for plan in tqdm(plans, desc=description, unit="clip"):
        path = out / plan.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_clip(path, render(plan, read))
        used = {event.recording for event in plan.events}
        rows.append({"path": plan.name, "captions": plan.captions, "group": plan.group, **plan.facts, **_origin(used)})
    return rows


def _write_clip(path: Path, audio: np.ndarray) -> None:
    with replacing(path) as partial:
        named = partial.with_name(partial.name + path.suffix)
        write_audio(named, audio)
        named.replace(partial)


def _source(out: Path, recording: Recording) -> Source:
    info = soundfile.info(str(out / recording.path))
    return Source(recording, info.frames / info.samplerate, info.channels == 1)


def _is_whole(source: Source) -> bool:
    recording = source.recording
    return recording.kind == "music" or (source.seconds >= LONG_SECONDS and recording.kind != "loop")


def _weight(source: Source, held_out: bool) -> int:
    """How often a recording that is used as it is stands in the manifest."""
    if held_out:
        return 1
    weight = max(1, round(source.seconds / LONG_SECONDS))
    if source.recording.kind == "music":
        return weight * MUSIC_WEIGHT
    return max(weight, CLIPS_PER_CAPTION[source.recording.kind])


def _whole_row(source: Source) -> dict[str, Any]:
    recording = source.recording
    group = GROUPS[recording.kind]
    return {"path": recording.path, "captions": recording.captions, "group": group, **_origin({recording})}


def _origin(recordings: set[Recording]) -> dict[str, Any]:
    licences = sorted({recording.licence for recording in recordings})
    return {"package": sorted({recording.package for recording in recordings}), "license": licences}


def _write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _generator(name: str) -> np.random.Generator:
    return random_generator(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
