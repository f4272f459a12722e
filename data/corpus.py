"""Corpora that are drawn by seed: which clip belongs to which number, and how it is cut into crops.

| name | sounds |
|---|---|
| `synthetic` | made by signal processing (`data.synthetic`), all kinds |
| `nature`, `machines` | those of its kinds that no instrument makes |
| `instruments` | pieces played by a SoundFont (`data.instruments`) |
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data import instruments, synthetic
from data.loading import Item, crop_item, derived_seed, random_generator
from data.synthetic import KINDS, Clip

# What a random stream is for, so that no two purposes share one.
_CLIP, _CROP = 1, 2
# Validation does not follow the training seed: losses of different runs can be compared.
_VALIDATION_SEED = 20_240_607
_GROUPS = {"nature": ("nature",), "machines": ("machine", "beat")}


class Corpus(Protocol):
    """Clips drawn by seed; picklable."""

    def draw(self, seed: int, *, held_out: bool = False) -> Clip: ...

    def captions(self, seed: int, number: int) -> list[str]:
        """Word a clip, `number` times, without its sound."""
        ...

    def origin(self) -> dict[str, Any]:
        """What makes the clips, as plain JSON values."""
        ...


@dataclass(frozen=True)
class SyntheticCorpus:
    """Sounds made by signal processing; a training clip holds one of the `kinds`, or any where there are none."""

    kinds: tuple[str, ...] = ()

    def draw(self, seed: int, *, held_out: bool = False) -> Clip:
        return synthetic.draw_clip(seed, held_out=held_out, kinds=() if held_out else self.kinds)

    def captions(self, seed: int, number: int) -> list[str]:
        return synthetic.captions(seed, number, kinds=self.kinds)

    def origin(self) -> dict[str, Any]:
        return {"data": "data.synthetic", "kinds": list(self.kinds)}


@dataclass(frozen=True)
class InstrumentCorpus:
    """Pieces played by a SoundFont; none: the installed one."""

    soundfont: Path | None = None

    def draw(self, seed: int, *, held_out: bool = False) -> Clip:
        return instruments.draw_clip(seed, self.soundfont, held_out=held_out)

    def captions(self, seed: int, number: int) -> list[str]:
        return instruments.captions(seed, number)

    def origin(self) -> dict[str, Any]:
        return {"data": "data.instruments", "soundfont": instruments.find_soundfont(self.soundfont).name}


def named_corpus(name: str, soundfont: str | None = None) -> Corpus | None:
    """The corpus of a name; none: it is something else (a folder)."""
    if name == "synthetic":
        return SyntheticCorpus()
    if name in _GROUPS:
        return SyntheticCorpus(tuple(kind.name for kind in KINDS.values() if kind.group in _GROUPS[name]))
    if name == "instruments":
        return InstrumentCorpus(None if soundfont is None else Path(soundfont))
    return None


def training_clip(corpus: Corpus, seed: int, index: int) -> Clip:
    """Draw training clip `index` of a run's seed."""
    return corpus.draw(derived_seed(seed, _CLIP, index))


def training_captions(corpus: Corpus, seed: int, index: int, number: int) -> list[str]:
    """Captions of training clip `index`, without drawing its sound."""
    return corpus.captions(derived_seed(seed, _CLIP, index), number)


def validation_clip(corpus: Corpus, index: int) -> Clip:
    """Draw validation clip `index`, of the held-out part of a corpus; the same in every run."""
    return corpus.draw(derived_seed(_VALIDATION_SEED, _CLIP, index), held_out=True)


class CorpusSource:
    """Every draw is a new clip, cut into several random crops; see `data.loading.Source`.

    Args:
        corpus: what is drawn.
        seed: of the training clips.
        crop_samples: length of a crop.
        crops_per_clip: items of one draw.
        num_validation: validation items, one crop of a clip each.
    """

    def __init__(self, corpus: Corpus, seed: int, crop_samples: int, crops_per_clip: int, num_validation: int) -> None:
        self.corpus = corpus
        self.seed = seed
        self.crop_samples = crop_samples
        self.items_per_draw = crops_per_clip
        self.num_validation = num_validation

    def draw(self, index: int) -> list[Item]:
        clip = training_clip(self.corpus, self.seed, index)
        starts = random_generator(self.seed, _CROP, index).integers(
            0, self._latest_start(clip), size=self.items_per_draw, endpoint=True
        )
        return [self._crop(clip, int(start)) for start in starts]

    def draw_validation(self, index: int) -> Item:
        clip = validation_clip(self.corpus, index)
        generator = random_generator(_VALIDATION_SEED, _CROP, index)
        return self._crop(clip, int(generator.integers(0, self._latest_start(clip), endpoint=True)))

    def _latest_start(self, clip: Clip) -> int:
        return max(0, clip.audio.shape[1] - self.crop_samples)

    def _crop(self, clip: Clip, start: int) -> Item:
        audio = clip.audio[:, start : start + self.crop_samples]
        return crop_item(audio, self.crop_samples, start, clip.metadata["seconds_total"], clip.prompt)
