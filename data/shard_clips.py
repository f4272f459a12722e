"""Whole clips out of audio shards on local disks, by number, for `data.latents`; see `data.clips.ClipSet`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.audio_shards import Sample, expand, is_local, make_sample, name_hash, split_name
from data.clip_set import WholeClip
from data.folder import UnreadableFiles
from data.tar_shards import Shard
from models.errors import UserError


class ShardClips:
    """The samples of audio shards. Tar files that lie here can be read at any place.

    Args:
        shards: patterns or folders, as of `data.audio_shards.expand`.
        validation_share: share of the samples held out, chosen by their names.

    Raises:
        UserError: a shard is not local, or damaged.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        clips: int | None,
        validation_clips: int | None,
        validation_share: float,
        max_unreadable_share: float,
    ) -> None:
        urls = expand(shards)
        if remote := [url for url in urls if not is_local(url)]:
            raise UserError(
                f"data.latents reads shards at any place, so they must lie on this machine: fetch {remote[0]} first, "
                "or train on it with --data.shards"
            )
        opened = [Shard(Path(url.removeprefix("file:")), split_name) for url in urls]
        self.samples = [(shard, key) for shard in opened for key in shard.keys]
        by_hash = sorted(range(len(self.samples)), key=lambda index: name_hash(self.samples[index][1]))
        held_out = min(len(by_hash) - 1, max(1, round(validation_share * len(by_hash)))) if validation_share else 0
        self.numbers = {
            "train": sorted(by_hash[held_out:])[:clips],
            "validation": sorted(by_hash[:held_out])[:validation_clips],
        }
        self.unreadable = UnreadableFiles([self._name(n) for n in range(len(self.samples))], max_unreadable_share)

    def size(self, split: str) -> int:
        return len(self.numbers[split])

    def origin(self) -> dict[str, Any]:
        names = "\n".join(self._name(number) for split in self.numbers for number in self.numbers[split])
        return {"data": "shards", "files": hashlib.sha256(names.encode()).hexdigest()[:16]}

    def clip(self, split: str, index: int) -> WholeClip | None:
        number = self.numbers[split][index]
        try:
            sample = self._sample(number)
            with sample.open() as audio:
                about = {
                    "metadata": sample.metadata, "name": sample.path.as_posix(), "seconds_total": audio.seconds
                }  # fmt: skip
                return WholeClip(about, audio.read(), number)
        except (UserError, OSError, ModuleNotFoundError) as error:
            self.unreadable.add(number, error)
            return None

    def leave_out(self, clip: WholeClip, error: Exception) -> None:
        assert clip.file is not None
        self.unreadable.add(clip.file, error)

    def left_out(self) -> list[str]:
        return self.unreadable.listed()

    def _name(self, number: int) -> str:
        shard, key = self.samples[number]
        return f"{shard.path.name}: {key}"

    def _sample(self, number: int) -> Sample:
        shard, key = self.samples[number]
        return make_sample(f"{shard.path}: {key}", key, shard.members(key))
