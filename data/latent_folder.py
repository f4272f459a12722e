"""A folder of latents on disk: its layout, and how it is written. `data.latent_source` draws from it.

A folder holds `index.json` and the shards `train-00000.tar`, `validation-00000.tar`, ... of `data.tar_shards`. A sample
is one whole clip: `mean` and `std` of its posterior, (frames, channels) float16, and `about`: {"metadata", "name",
"seconds_total"}. The index says what made the latents and, once all shards are there, how many clips and bytes each
has, so that no loss goes unnoticed.

Processes share the shards without talking to each other; a shard is complete or absent. Whoever finishes last
completes the index.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audio import AudioReadError
from data.clip_set import ClipSet, WholeClip, read_clips
from data.encoding import encode_clip, fingerprint, silence_posterior
from data.tar_shards import Shard, ShardWriter
from models.errors import UserError
from models.files import replacing
from models.vae import VAE

logger = logging.getLogger(__name__)

INDEX_NAME = "index.json"
FORMAT = 2
SPLITS = ("validation", "train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentIndex:
    """What a folder of latents holds; written to `index.json`."""

    format: int = FORMAT
    """Version of the folder's layout."""
    origin: dict[str, Any]
    """What made the latents: a fingerprint of the VAE, the data and its size."""
    hop_length: int
    """Samples of a frame."""
    num_clips: int
    """Training clips asked for (unreadable files are missing from the shards)."""
    num_validation_clips: int
    """Validation clips asked for."""
    clips_per_shard: int
    """Clips of a shard; the last one of a split may hold fewer."""
    silence_mean: list[float]
    """Posterior mean per channel that the VAE gives for silence."""
    silence_std: list[float]
    """Posterior standard deviation per channel for silence."""
    shards: dict[str, dict[str, int]] | None = None
    """Clips and bytes of every shard by its name; None while some are still to be written."""

    def num_shards(self, split: str) -> int:
        """Shards of the split "train" or "validation"."""
        clips = self.num_clips if split == "train" else self.num_validation_clips
        return -(-clips // self.clips_per_shard)

    def shard_name(self, split: str, number: int) -> str:
        """File name of a shard."""
        return f"{split}-{number:05d}.tar"

    def save(self, folder: Path) -> None:
        """Write index.json, whole or not at all."""
        with replacing(folder / INDEX_NAME) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LatentIndex":
        """Read a folder's index.json.

        Raises:
            FileNotFoundError: no folder of latents.
            UserError: of another format, or not what this project writes.
        """
        path = folder / INDEX_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no latents in {folder}: write them with python -m data.latents --out {folder}")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); write the latents again") from None
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
            raise UserError(f"{path} has format {found!r}, expected {FORMAT}: write the latents again in a new folder")
        if problem := _problem(fields):
            raise UserError(f"{path} is damaged ({problem}); write the latents again")
        return cls(**fields)


def _problem(fields: dict[str, Any]) -> str | None:
    """Say what is wrong with the fields of an index."""
    names = {field.name for field in dataclasses.fields(LatentIndex)}
    if set(fields) != names:
        return f"fields {', '.join(sorted(set(fields) ^ names))} missing or unknown"
    for name, least in (("hop_length", 1), ("num_clips", 0), ("num_validation_clips", 0), ("clips_per_shard", 1)):
        if type(fields[name]) is not int or fields[name] < least:
            return f"{name} must be a whole number of at least {least}, got {fields[name]!r}"
    if not isinstance(fields["origin"], dict) or not isinstance(fields["origin"].get("vae"), str):
        return "origin names no vae"
    mean, std = fields["silence_mean"], fields["silence_std"]
    values = (*mean, *std) if isinstance(mean, list) and isinstance(std, list) else ("none",)
    if not mean or len(mean) != len(std) or not all(isinstance(value, int | float) for value in values):
        return "silence_mean and silence_std must be equally long lists of numbers"
    return _shards_problem(LatentIndex(**fields))


def _shards_problem(index: LatentIndex) -> str | None:
    shards: Any = index.shards
    if shards is None:
        return None
    expected = sum(map(index.num_shards, SPLITS))
    if not isinstance(shards, dict) or len(shards) != expected:
        return f"shards must list {expected} shards"
    if any(
        not isinstance(shard, dict) or [type(shard.get(key)) for key in ("clips", "bytes")] != [int, int]
        for shard in shards.values()
    ):
        return "shards must state clips and bytes of each"
    names = (index.shard_name(split, n) for split in SPLITS for n in range(index.num_shards(split)))
    missing = [name for name in names if name not in shards]
    return f"no {missing[0]} among the shards" if missing else None


def open_shards(folder: Path, index: LatentIndex, split: str) -> list[tuple[Shard, str]]:
    """Return every clip of a split as its shard and key.

    Raises:
        FileNotFoundError: shards are missing.
        UserError: the folder is unfinished, or a shard is not what was written.
    """
    names = [index.shard_name(split, number) for number in range(index.num_shards(split))]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} {split} shards are missing in {folder} ({missing[0]} ...): "
            "run the same python -m data.latents command again to finish them"
        )
    if index.shards is None:
        raise UserError(f"the latents in {folder} are not finished: run the same python -m data.latents command again")
    shards = [_open_shard(folder, index, name) for name in names]
    return [(shard, key) for shard in shards for key in shard.keys]


def _open_shard(folder: Path, index: LatentIndex, name: str) -> Shard:
    """Open a shard, and compare it with what the index says was written."""
    shard = Shard(folder / name)
    found = {"clips": len(shard.keys), "bytes": shard.path.stat().st_size}
    if index.shards is not None and found != index.shards[name]:
        expected = index.shards[name]
        raise UserError(
            f"shard {shard.path} holds {found['clips']} clips in {found['bytes']} bytes, of "
            f"{expected['clips']} in {expected['bytes']}; write it again"
        )
    return shard


def write_latents(
    vae: VAE,
    source: ClipSet,
    out: Path,
    clips_per_shard: int = 128,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> None:
    """Encode all clips of a set into a folder of latents; what an earlier run finished is kept.

    Args:
        out: the folder; made if its parent exists.
        num_workers: processes that read ahead.
        process_index: which share of the shards this process writes, of num_processes.

    Raises:
        UserError: the folder holds other latents, or too many clips cannot be read.
    """
    index = _open_index(out, vae, source, clips_per_shard)
    shards = [(split, number) for split in SPLITS for number in range(index.num_shards(split))]
    own = shards[process_index::num_processes]
    missing = [shard for shard in own if not _is_whole(out, index, index.shard_name(*shard))]
    if len(missing) < len(own):
        logger.info("%d of %d shards are already there", len(own) - len(missing), len(own))
    _write_shards(vae, source, index, out, missing, num_workers)
    if names := source.left_out():
        logger.warning("%d audio files could not be read and were left out: %s", len(names), ", ".join(names))
    paths = [out / index.shard_name(*shard) for shard in shards]
    if all(path.is_file() for path in paths):
        counts = {path.name: {"clips": len(Shard(path).keys), "bytes": path.stat().st_size} for path in paths}
        dataclasses.replace(index, shards=counts).save(out)
    logger.info("%s: %d shards written", out, len(missing))


def _open_index(out: Path, vae: VAE, clips: ClipSet, clips_per_shard: int) -> LatentIndex:
    """Write a folder's index, or check that the one there is of the same VAE and data."""
    silence_mean, silence_std = silence_posterior(vae)
    index = LatentIndex(
        origin={"vae": fingerprint(vae), **clips.origin()},
        hop_length=vae.hop_length,
        num_clips=clips.size("train"),
        num_validation_clips=clips.size("validation"),
        clips_per_shard=clips_per_shard,
        silence_mean=silence_mean,
        silence_std=silence_std,
    )
    if (out / INDEX_NAME).exists():
        found = LatentIndex.load(out)
        for field in ("origin", "num_clips", "num_validation_clips", "clips_per_shard"):
            if getattr(found, field) != getattr(index, field):
                raise UserError(
                    f"{out} holds other latents ({field}: {getattr(found, field)}, wanted {getattr(index, field)}); "
                    "choose another --out, or delete that folder"
                )
        return found
    out.mkdir(exist_ok=True)
    index.save(out)
    return index


def _is_whole(folder: Path, index: LatentIndex, name: str) -> bool:
    """Whether a shard is there; one that was damaged since is written again."""
    if not (folder / name).is_file():
        return False
    try:
        _open_shard(folder, index, name)
    except UserError as error:
        logger.warning("%s", error)
        return False
    return True


def _write_shards(
    vae: VAE, source: ClipSet, index: LatentIndex, out: Path, missing: list[tuple[str, int]], num_workers: int
) -> None:
    contents = {
        (split, n): range(n * index.clips_per_shard, min((n + 1) * index.clips_per_shard, source.size(split)))
        for split, n in missing
    }
    numbers = [(split, clip) for (split, _), clips in contents.items() for clip in clips]
    reader = read_clips(source, numbers, num_workers)
    seconds = 0.0
    with tqdm(total=len(numbers), unit="clip", desc=str(out)) as progress:
        for (split, n), clips in contents.items():
            with ShardWriter(out / index.shard_name(split, n)) as writer:
                for clip in clips:
                    seconds += _encode_to(writer, f"{split}{clip:08d}", next(reader), vae, source)
                    progress.update()
                    progress.set_postfix_str(f"{seconds / 3600:.2f} h of audio")


def _encode_to(writer: ShardWriter, key: str, clip: WholeClip | None, vae: VAE, source: ClipSet) -> float:
    """Encode a clip into a shard and return its seconds; a clip that cannot be read is left out."""
    if clip is None:
        return 0.0
    try:
        mean, std = encode_clip(vae, clip.audio)
    except AudioReadError as error:
        source.leave_out(clip, error)
        return 0.0
    writer.write(key, {"about": clip.about, "mean": mean, "std": std})
    return float(clip.about["seconds_total"])
