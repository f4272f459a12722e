"""The procedural corpus as a source of crops: which clip belongs to which number, and how it is cut."""

from data.loading import Item, crop_item, derived_seed, random_generator
from data.synthetic import Clip, draw_clip, plan_clip

# What a random stream is for, so that no two purposes share one.
_CLIP, _CROP = 1, 2
# Validation does not follow the training seed: losses of different runs can be compared.
_VALIDATION_SEED = 20_240_607


def training_clip(seed: int, index: int, kinds: tuple[str, ...] = ()) -> Clip:
    """Draw training clip `index` of a run's seed, with one of the `kinds`."""
    return draw_clip(derived_seed(seed, _CLIP, index), kinds=kinds)


def training_prompt(seed: int, index: int) -> str:
    """Caption of training clip `index`, without drawing its sound."""
    return plan_clip(derived_seed(seed, _CLIP, index))[1]


def validation_clip(index: int) -> Clip:
    """Draw validation clip `index`, of the held-out part of the corpus; the same in every run."""
    return draw_clip(derived_seed(_VALIDATION_SEED, _CLIP, index), held_out=True)


class SyntheticSource:
    """Every draw is a new clip, cut into several random crops; see `data.loading.Source`.

    Args:
        seed: of the training clips.
        crop_samples: length of a crop.
        crops_per_clip: items of one draw.
        num_validation: validation items, one crop of a clip each.
    """

    def __init__(self, seed: int, crop_samples: int, crops_per_clip: int, num_validation: int) -> None:
        self.seed = seed
        self.crop_samples = crop_samples
        self.items_per_draw = crops_per_clip
        self.num_validation = num_validation

    def draw(self, index: int) -> list[Item]:
        clip = training_clip(self.seed, index)
        starts = random_generator(self.seed, _CROP, index).integers(
            0, self._latest_start(clip), size=self.items_per_draw, endpoint=True
        )
        return [self._crop(clip, int(start)) for start in starts]

    def draw_validation(self, index: int) -> Item:
        clip = validation_clip(index)
        generator = random_generator(_VALIDATION_SEED, _CROP, index)
        return self._crop(clip, int(generator.integers(0, self._latest_start(clip), endpoint=True)))

    def _latest_start(self, clip: Clip) -> int:
        return max(0, clip.audio.shape[1] - self.crop_samples)

    def _crop(self, clip: Clip, start: int) -> Item:
        audio = clip.audio[:, start : start + self.crop_samples]
        return crop_item(audio, self.crop_samples, start, clip.metadata["seconds_total"], clip.prompt)
