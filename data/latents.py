"""Encode a data set to latents once, so that diffusion training need not: `data.latent_source` reads the result.

    python -m data.latents --model checkpoints/demo --out latents [--data.folder my_audio]

A shard is complete or absent, so an interrupted run goes on where it stopped when it is started again; several
processes (`--num_processes 4 --process_index 0`, 1, ...) share the shards without talking to each other.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.audio import AudioFile, AudioReadError
from data.cli import run
from data.clips import ClipSet, CorpusClips, FolderClips, LatentDataConfig, WholeClip
from data.latent_source import INDEX_NAME, LatentIndex
from data.shards import ShardWriter
from models.device import resolve_device
from models.errors import UserError
from models.streaming import StreamingEncoder
from models.vae import VAE, Posterior

logger = logging.getLogger(__name__)

# Encoding goes in pieces of this length, so memory stays bounded. Small ones stay in a CPU's caches (a third faster
# than the whole clip at once); an accelerator wants large ones.
_CPU_PIECE_SAMPLES = 1 << 15
_ACCELERATOR_PIECE_SAMPLES = 1 << 20
_READ_SAMPLES = 1 << 20
_WHOLE_CORPUS = LatentDataConfig()


class _Clips(Dataset):
    """The clips of some shards, for a DataLoader: (split, index) -> clip, or an error's message."""

    def __init__(self, clips: ClipSet, numbers: list[tuple[str, int]]) -> None:
        self.clips = clips
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> WholeClip | str | None:
        try:
            return self.clips.clip(*self.numbers[position])
        except (ValueError, OSError) as error:
            return str(error)


def _unchanged(clip: Any) -> Any:
    return clip


def read_clips(source: ClipSet, numbers: list[tuple[str, int]], num_workers: int) -> Iterator[WholeClip | str | None]:
    """Read clips ahead in other processes: (split, index) -> clip, an error's message, or None for one left out."""
    loader = DataLoader(_Clips(source, numbers), batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
    return iter(loader)


def _pieces(audio: np.ndarray | Path, length: int) -> Iterator[np.ndarray]:
    """Yield the audio of a clip in pieces (2, samples)."""
    if isinstance(audio, np.ndarray):
        for start in range(0, audio.shape[1], length):
            yield audio[:, start : start + length]
        return
    with AudioFile(audio) as file:
        for read in file.pieces(_READ_SAMPLES):
            yield from _pieces(read, length)


@torch.inference_mode()
def stream_posteriors(vae: VAE, audio: np.ndarray | Path, piece_samples: int | None = None) -> Iterator[Posterior]:
    """Yield a clip's posterior piece by piece at bounded memory, (1, channels, frames >= 0) each.

    Args:
        audio: (2, samples) float32 at 44,100 Hz, or a file.
        piece_samples: samples encoded at once; none: what suits the device.
    """
    device = vae.latent_mean.device
    length = piece_samples or (_CPU_PIECE_SAMPLES if device.type == "cpu" else _ACCELERATOR_PIECE_SAMPLES)
    encoder = StreamingEncoder(vae)
    for piece in _pieces(audio, length):
        yield encoder.push(vae.from_stereo(torch.from_numpy(np.ascontiguousarray(piece)))[None].to(device))
    yield encoder.finish()


def encode_clip(vae: VAE, audio: np.ndarray | Path, piece_samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and std of a clip's posterior, each (frames, channels) float16; arguments as `stream_posteriors`."""
    parts = list(stream_posteriors(vae, audio, piece_samples))
    mean, std = (torch.cat([getattr(part, name)[0] for part in parts], dim=1).T for name in ("mean", "std"))
    return mean.half().cpu().numpy(), std.half().cpu().numpy()


def silence_posterior(vae: VAE) -> tuple[list[float], list[float]]:
    """Return the posterior's mean and std per channel in the middle of silence."""
    mean, std = encode_clip(vae, np.zeros((2, 64 * vae.hop_length), np.float32))
    return mean[len(mean) // 2].tolist(), std[len(std) // 2].tolist()


def fingerprint(vae: VAE) -> str:
    """Return a short hash of the encoder's weights and of the latent statistics."""
    digest = hashlib.sha256(repr(vae.config).encode())
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith("decoder."):
            digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def open_index(out: Path, vae: VAE, clips: ClipSet, clips_per_shard: int) -> LatentIndex:
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


def main(
    model: Path,
    out: Path,
    data: LatentDataConfig = _WHOLE_CORPUS,
    clips: int | None = None,
    validation_clips: int | None = None,
    seed: int = 0,
    clips_per_shard: int = 128,
    process_index: int = 0,
    num_processes: int = 1,
    device: str = "auto",
) -> None:
    """Encode whole clips to shards of posterior means and standard deviations; finished shards are kept.

    Args:
        model: checkpoint folder with a VAE.
        out: folder to write to; made if its parent exists.
        data: what is encoded.
        clips: training clips; none: all files of the folder, or 2,500 of the procedural corpus.
        validation_clips: validation clips; none: all held-out files, or 64 of the corpus.
        seed: of the procedural corpus's training clips.
        clips_per_shard: clips of a shard.
        process_index: which share of the shards this process writes, from 0.
        num_processes: how many processes share the work.
        device: auto, cpu, cuda, mps.
    """
    if min(clips_per_shard, num_processes, 1 if clips is None else clips) < 1:
        raise UserError("clips, clips_per_shard and num_processes must be at least 1")
    if not 0 <= process_index < num_processes:
        raise UserError(f"process_index must be 0 to {num_processes - 1}, got {process_index}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    vae = VAE.load(model).to(resolve_device(device))
    source: ClipSet
    if data.folder is not None:
        source = FolderClips(data, clips, validation_clips)
    else:
        source = CorpusClips(clips, validation_clips, seed, data.kinds)
    index = open_index(out, vae, source, clips_per_shard)
    encode_shards(vae, source, index, out, data.num_workers, process_index, num_processes)


def encode_shards(
    vae: VAE,
    source: ClipSet,
    index: LatentIndex,
    out: Path,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> None:
    """Write this process's missing shards."""
    shards = [(split, n) for split in ("validation", "train") for n in range(index.num_shards(split))]
    own = shards[process_index::num_processes]
    missing = [shard for shard in own if not index.shard_path(out, *shard).exists()]
    contents = {
        (split, n): range(n * index.clips_per_shard, min((n + 1) * index.clips_per_shard, source.size(split)))
        for split, n in missing
    }
    numbers = [(split, clip) for (split, _), clips in contents.items() for clip in clips]
    if len(missing) < len(own):
        logger.info("%d of %d shards are already there", len(own) - len(missing), len(own))
    loader = read_clips(source, numbers, num_workers)
    seconds = 0.0
    with tqdm(total=len(numbers), unit="clip", desc=str(out)) as progress:
        for (split, n), clips in contents.items():
            with ShardWriter(index.shard_path(out, split, n)) as writer:
                for clip in clips:
                    seconds += _encode_to(writer, f"{split}{clip:08d}", next(loader), vae, source)
                    progress.update()
                    progress.set_postfix_str(f"{seconds / 3600:.2f} h of audio")
    if names := source.left_out():
        logger.warning("%d audio files could not be read and were left out: %s", len(names), ", ".join(names))
    logger.info("%s: %d shards written", out, len(missing))


def _encode_to(writer: ShardWriter, key: str, clip: WholeClip | str | None, vae: VAE, source: ClipSet) -> float:
    """Encode a clip into a shard and return its seconds; a clip that cannot be read is left out."""
    if isinstance(clip, str):
        raise UserError(clip)
    if clip is None:
        return 0.0
    try:
        mean, std = encode_clip(vae, clip.audio)
    except AudioReadError as error:
        source.leave_out(clip, error)
        return 0.0
    writer.write(key, {"about": clip.about, "mean": mean, "std": std})
    return float(clip.about["seconds_total"])


if __name__ == "__main__":
    run(main)
