"""Pre-encoded latents as a source of crops, and the layout of a folder of them (`python -m data.latents` writes it).

A folder holds `index.json` (what made it, and what the VAE gives for silence) and the shards `train-00000.tar`,
`validation-00000.tar`, ... of `data.shards`. A sample is one whole clip: `mean` and `std` of its posterior,
(frames, channels) float16, and `about`: {"metadata", "name", "seconds_total"}. Training draws a fresh sample of the
posterior and a new crop every time.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.audio import SAMPLE_RATE
from data.captions import make_prompt
from data.loading import Item, random_generator
from data.shards import Shard
from models.errors import UserError

INDEX_NAME = "index.json"
FORMAT = 1

_ORDER, _CROP, _VALIDATION = 21, 22, 23


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

    def num_shards(self, split: str) -> int:
        """Shards of the split "train" or "validation"."""
        clips = self.num_clips if split == "train" else self.num_validation_clips
        return -(-clips // self.clips_per_shard)

    def shard_path(self, folder: Path, split: str, number: int) -> Path:
        """Where a shard lies."""
        return folder / f"{split}-{number:05d}.tar"

    def save(self, folder: Path) -> None:
        """Write index.json, whole or not at all."""
        partial = folder / f".{INDEX_NAME}.{os.getpid()}"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / INDEX_NAME)

    @classmethod
    def load(cls, folder: Path) -> "LatentIndex":
        """Read a folder's index.json.

        Raises:
            FileNotFoundError: no folder of latents.
            UserError: of another format.
        """
        path = folder / INDEX_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no latents in {folder}: write them with python -m data.latents --out {folder}")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(**fields)
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{path} is not an index of latents of format {FORMAT}: {error}") from error


class LatentSource:
    """Random crops of the pre-encoded clips of one or several folders; see `data.loading.Source`.

    An item has latents (channels, crop_frames) float32, a fresh sample of the posterior; frame_mask (crop_frames,)
    bool, False where a clip shorter than the crop was filled up with the latents of silence; prompt; seconds_start of
    the crop in its clip and seconds_total of the clip. The clips of all folders come in an order shuffled anew for
    every pass; those of a folder that is named twice come twice (in validation once).

    Raises:
        FileNotFoundError: no folder of latents, or shards are missing.
        UserError: no training clips, or folders that were written with different autoencoders.
    """

    items_per_draw = 1

    def __init__(self, folders: str | Path | Sequence[str | Path], seed: int, crop_frames: int, num_validation: int):
        times = Counter(map(Path, [folders] if isinstance(folders, str | Path) else folders))
        indices = {folder: LatentIndex.load(folder) for folder in times}
        first, self.index = next(iter(indices.items()))
        self.seed = seed
        self.crop_frames = crop_frames
        self.training: list[tuple[Shard, str]] = []
        self.validation: list[tuple[Shard, str]] = []
        for folder, index in indices.items():
            if index.origin["vae"] != self.index.origin["vae"]:
                raise UserError(f"{folder} and {first} hold latents of different autoencoders: encode one anew")
            self.training += times[folder] * open_shards(folder, index, "train")
            self.validation += open_shards(folder, index, "validation")
        if not self.training:
            raise UserError(f"{' and '.join(map(str, times))} holds no training clips")
        self.num_validation = num_validation if self.validation else 0
        self._silence = np.array([self.index.silence_mean, self.index.silence_std], np.float32)  # (2, channels)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self._silence.shape[1]

    def draw(self, index: int) -> list[Item]:
        epoch, position = divmod(index, len(self.training))
        if self._order[0] != epoch:
            self._order = (epoch, random_generator(self.seed, _ORDER, epoch).permutation(len(self.training)))
        shard, key = self.training[self._order[1][position]]
        return [self._crop(shard, key, (self.seed, _CROP, index))]

    def draw_validation(self, index: int) -> Item:
        shard, key = self.validation[index % len(self.validation)]
        return self._crop(shard, key, (_VALIDATION, index))

    def _crop(self, shard: Shard, key: str, random_key: tuple[int, ...]) -> Item:
        generator = random_generator(*random_key)
        about = shard.json(key, "about")
        mean, std = shard.array(key, "mean"), shard.array(key, "std")  # (frames, channels)
        start = int(generator.integers(0, max(0, len(mean) - self.crop_frames), endpoint=True))
        stop = min(start + self.crop_frames, len(mean))
        num_real = stop - start
        shape = (self.crop_frames, self.latent_channels)
        posterior_mean = np.broadcast_to(self._silence[0], shape).copy()
        posterior_std = np.broadcast_to(self._silence[1], shape).copy()
        posterior_mean[:num_real] = mean[start:stop]
        posterior_std[:num_real] = std[start:stop]
        sample = posterior_mean + posterior_std * generator.standard_normal(shape, dtype=np.float32)
        return {
            "latents": np.ascontiguousarray(sample.T),
            "frame_mask": np.arange(self.crop_frames) < num_real,
            "prompt": make_prompt(about["metadata"], generator, Path(about["name"])),
            "seconds_start": start * self.index.hop_length / SAMPLE_RATE,
            "seconds_total": float(about["seconds_total"]),
        }


def open_shards(folder: Path, index: LatentIndex, split: str) -> list[tuple[Shard, str]]:
    """Return every clip of a split as its shard and key.

    Raises:
        FileNotFoundError: shards are missing.
    """
    paths = [index.shard_path(folder, split, n) for n in range(index.num_shards(split))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} {split} shards are missing in {folder} ({missing[0]} ...): "
            "run the same python -m data.latents command again to finish them"
        )
    return [(shard, key) for shard in map(Shard, paths) for key in shard.keys]
