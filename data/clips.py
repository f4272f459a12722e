"""The sets of whole clips that are encoded: a corpus's, a user's folder's, of audio shards, or a mixture of them."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from data.audio import SAMPLE_RATE, AudioFile
from data.clip_set import ClipSet, WholeClip
from data.corpus import Corpus, SyntheticCorpus, named_corpus, training_captions, training_clip, validation_clip
from data.folder import UnreadableFiles, check_entries, list_entries, split_entries
from data.mixture import Shares
from data.shard_clips import ShardClips
from data.synthetic import KINDS
from models.errors import UserError

CORPUS_CLIPS = 2_500
CORPUS_VALIDATION_CLIPS = 64
NUM_CAPTIONS = 16
"""Captions of a training clip of the corpus; a crop gets one of them."""

# Longer files are handed over by name, to be read piece by piece.
_LONGEST_HANDED_OVER_SAMPLES = 300 * SAMPLE_RATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDataConfig:
    """What is encoded."""

    folder: str | None = None
    """A folder of audio with captions, or a manifest (.jsonl, .csv); none: the procedural corpus."""
    shards: tuple[str, ...] | str | None = None
    """Instead of a folder: audio shards on this machine (paths with braces, or folders of them)."""
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    """Several sources by weight instead: {instruments: 5, nature: 2, my_folder: 1}. `synthetic` (or `nature` and
    `machines`, parts of it) and `instruments` are drawn; any other name is a folder or manifest."""
    soundfont: str | None = None
    """The General MIDI SoundFont that plays the instruments of a mixture; none: the installed one."""
    kinds: tuple[str, ...] = ()
    """Sounds of the procedural corpus, one of which is in every training clip; empty: all."""
    num_workers: int = 1
    """Processes that draw or read ahead of the encoder; 0: none."""
    validation_share: float = 0.02
    """Share of a folder's files held out for validation, at least one (0 to 1)."""
    max_unreadable_share: float = 0.05
    """Stop when more than this share of the files cannot be read (0 to 1); a single file never stops the run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if unknown := [name for name in self.kinds if name not in KINDS]:
            raise UserError(f"data.kinds: no {', '.join(unknown)} in the corpus; it has {', '.join(KINDS)}")
        if self.kinds and (self.folder is not None or self.mixture):
            raise UserError("data.kinds chooses from the procedural corpus: leave it out with data.folder or mixture")
        if self.shards is not None and (self.folder is not None or self.mixture or self.kinds):
            raise UserError("data.shards goes alone: leave data.folder, data.mixture and data.kinds out")
        if self.folder is not None and self.mixture:
            raise UserError("give data.folder or data.mixture, not both: a mixture may name folders")


class CorpusClips:
    """Clips of a corpus, in many words each; validation clips are of its held-out part."""

    def __init__(self, corpus: Corpus, clips: int | None, validation_clips: int | None, seed: int) -> None:
        self.sizes = {
            "train": CORPUS_CLIPS if clips is None else clips,
            "validation": CORPUS_VALIDATION_CLIPS if validation_clips is None else validation_clips,
        }
        self.corpus = corpus
        self.seed = seed

    def size(self, split: str) -> int:
        return self.sizes[split]

    def origin(self) -> dict[str, Any]:
        return {"seed": self.seed, "captions": NUM_CAPTIONS, **self.corpus.origin()}

    def clip(self, split: str, index: int) -> WholeClip | None:
        is_training = split == "train"
        clip = training_clip(self.corpus, self.seed, index) if is_training else validation_clip(self.corpus, index)
        others = training_captions(self.corpus, self.seed, index, NUM_CAPTIONS - 1) if is_training else []
        about = {
            "metadata": {"prompts": [clip.prompt, *others], **clip.metadata},
            "name": f"{split}/{index}",
            "seconds_total": clip.metadata["seconds_total"],
        }
        return WholeClip(about, clip.audio)

    def leave_out(self, clip: WholeClip, error: Exception) -> None:  # noqa: ARG002 no file, nothing to leave out
        raise error

    def left_out(self) -> list[str]:
        return []


class FolderClips:
    """The files of a user's folder or manifest."""

    def __init__(self, data: LatentDataConfig, clips: int | None, validation_clips: int | None) -> None:
        assert data.folder is not None
        self.entries = list_entries(data.folder)
        training, validation = split_entries(self.entries, data.validation_share)
        self.files = {"train": training[:clips], "validation": validation[:validation_clips]}
        self.unreadable = UnreadableFiles([entry.name.as_posix() for entry in self.entries], data.max_unreadable_share)
        check_entries(self.entries, self.unreadable)

    def size(self, split: str) -> int:
        return len(self.files[split])

    def origin(self) -> dict[str, Any]:
        names = "\n".join(self.entries[file].name.as_posix() for split in self.files for file in self.files[split])
        return {"data": "folder", "files": hashlib.sha256(names.encode()).hexdigest()[:16]}

    def clip(self, split: str, index: int) -> WholeClip | None:
        file = self.files[split][index]
        entry = self.entries[file]
        try:
            with AudioFile(entry.path) as audio:
                about = {
                    "metadata": entry.read_metadata(), "name": entry.name.as_posix(), "seconds_total": audio.seconds
                }  # fmt: skip
                long = audio.num_samples > _LONGEST_HANDED_OVER_SAMPLES
                return WholeClip(about, entry.path if long else audio.read(), file)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            self.unreadable.add(file, error)
            return None

    def leave_out(self, clip: WholeClip, error: Exception) -> None:
        assert clip.file is not None
        self.unreadable.add(clip.file, error)

    def left_out(self) -> list[str]:
        return self.unreadable.listed()


class MixedClips:
    """Clips of several sets in fixed shares. A set whose share is larger than it is comes again."""

    def __init__(self, sets: dict[str, ClipSet], weights: Sequence[float], clips: int, validation_clips: int) -> None:
        self.sets = sets
        self.weights = list(weights)
        self._sizes = {"train": clips, "validation": validation_clips}
        self._deals: dict[str, tuple[list[int], Shares]] = {}
        for split in self._sizes:
            filled = [k for k, one in enumerate(sets.values()) if one.size(split)]
            if filled:
                self._deals[split] = (filled, Shares([weights[k] for k in filled]))

    def size(self, split: str) -> int:
        return self._sizes[split] if split in self._deals else 0

    def origin(self) -> dict[str, Any]:
        parts = {
            name: {"weight": w, **one.origin()} for (name, one), w in zip(self.sets.items(), self.weights, strict=True)
        }
        return {"data": "mixture", "parts": parts}

    def clip(self, split: str, index: int) -> WholeClip | None:
        filled, shares = self._deals[split]
        part, number = shares.place(index)
        one = list(self.sets.values())[filled[part]]
        clip = one.clip(split, number % one.size(split))
        return None if clip is None else dataclasses.replace(clip, part=filled[part])

    def leave_out(self, clip: WholeClip, error: Exception) -> None:
        list(self.sets.values())[clip.part].leave_out(clip, error)

    def left_out(self) -> list[str]:
        return [name for one in self.sets.values() for name in one.left_out()]


def open_clips(data: LatentDataConfig, clips: int | None, validation_clips: int | None, seed: int) -> ClipSet:
    """Open what a configuration names; `clips` None: all of a folder, or the corpus's usual number."""
    if data.mixture:
        sets = {name: _open_part(name, data, seed) for name in data.mixture}
        return MixedClips(
            sets,
            list(data.mixture.values()),
            CORPUS_CLIPS if clips is None else clips,
            CORPUS_VALIDATION_CLIPS if validation_clips is None else validation_clips,
        )
    if data.shards is not None:
        return ShardClips(data.shards, clips, validation_clips, data.validation_share, data.max_unreadable_share)
    if data.folder is not None:
        return FolderClips(data, clips, validation_clips)
    return CorpusClips(SyntheticCorpus(data.kinds), clips, validation_clips, seed)


def _open_part(name: str, data: LatentDataConfig, seed: int) -> ClipSet:
    corpus = named_corpus(name, data.soundfont)
    if corpus is not None:
        return CorpusClips(corpus, None, None, seed)
    return FolderClips(dataclasses.replace(data, folder=name, mixture={}), None, None)
