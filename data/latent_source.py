"""Pre-encoded latents as a source of crops: training draws a fresh sample of the posterior and a new crop every time.

`data.latent_folder` says what a folder of them holds; `python -m data.latents` writes it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.audio import SAMPLE_RATE
from data.captions import Captioner
from data.latent_folder import LatentIndex, open_shards
from data.loading import Item, random_generator
from data.tar_shards import Shard
from models.errors import UserError

_ORDER, _CROP, _VALIDATION = 21, 22, 23


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

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        seed: int,
        crop_frames: int,
        num_validation: int,
        captioner: Captioner | None = None,
    ) -> None:
        self.captioner = captioner or Captioner()
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
        return [self._first_kept(self.training, self._order[1], position, (self.seed, _CROP, index))]

    def draw_validation(self, index: int) -> Item:
        return self._first_kept(self.validation, range(len(self.validation)), index, (_VALIDATION, index))

    def _first_kept(
        self,
        clips: list[tuple[Shard, str]],
        order: Sequence[int] | np.ndarray,
        position: int,
        random_key: tuple[int, ...],
    ) -> Item:
        """Return a crop of the first clip from a place in the order on that has a prompt."""
        for step in range(len(order)):
            shard, key = clips[order[(position + step) % len(order)]]
            item = self._crop(shard, key, random_key)
            if item is not None:
                return item
        raise UserError(f"data.captions {self.captioner.rule} leaves out every clip")

    def _crop(self, shard: Shard, key: str, random_key: tuple[int, ...]) -> Item | None:
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
        prompt = self.captioner(about["metadata"], generator, Path(about["name"]))
        if prompt is None:
            return None
        return {
            "latents": np.ascontiguousarray(sample.T),
            "frame_mask": np.arange(self.crop_frames) < num_real,
            "prompt": prompt,
            "seconds_start": start * self.index.hop_length / SAMPLE_RATE,
            "seconds_total": float(about["seconds_total"]),
        }
