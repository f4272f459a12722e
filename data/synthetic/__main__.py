"""Writes the corpus as audio files: `python -m data.synthetic --out DIR --clips 1000`.

DIR/manifest.jsonl has one line a clip: path (relative to DIR), prompt, and the clip's metadata. A clip is listed once
its file is complete, so an interrupted run leaves a valid set, and the same command continues it.
"""

import json
import logging
from pathlib import Path

from tqdm import tqdm

from data.audio_writer import write_audio
from data.cli import run
from data.synthetic import draw_clip
from models.errors import UserError
from models.files import replacing

logger = logging.getLogger(__name__)


def read_manifest(path: Path) -> list[dict]:
    """Entries of a manifest whose last line may be cut off; the cut line is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def main(out: Path, clips: int, seed: int = 0, held_out: bool = False) -> None:
    """Write clips of the procedural corpus as FLAC files with a manifest; continue where an earlier run stopped.

    Args:
        out: folder to write to; made if its parent exists.
        clips: how many clips the folder shall hold.
        seed: seed of the first clip; clip i has seed + i.
        held_out: write clips with held-out combinations and wordings instead of training clips.
    """
    if clips < 1:
        raise UserError(f"clips must be at least 1, got {clips}")
    if seed < 0:
        raise UserError(f"seed must not be negative, got {seed}")
    out.mkdir(exist_ok=True)
    manifest_path = out / "manifest.jsonl"
    entries = read_manifest(manifest_path)
    if any((entry["held_out"] is not None) != held_out for entry in entries):
        raise UserError(f"{manifest_path} holds clips of the other kind (held_out {not held_out}); use another folder")
    written = {entry["seed"] for entry in entries if (out / entry["path"]).exists()}
    missing = [number for number in range(seed, seed + clips) if number not in written]
    with manifest_path.open("a", encoding="utf-8") as manifest:
        for number in tqdm(missing, initial=clips - len(missing), total=clips, unit="clip", desc=str(out)):
            clip = draw_clip(number, held_out=held_out)
            path = out / f"{'held_out_' if held_out else ''}{number:08d}.flac"
            with replacing(path) as partial:
                write_audio(partial, clip.audio)
            entry = {"path": path.name, "prompt": clip.prompt, **clip.metadata}
            manifest.write(json.dumps(entry) + "\n")
            manifest.flush()
    logger.info("%d clips in %s", clips, out)


if __name__ == "__main__":
    run(main)
