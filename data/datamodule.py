"""Lightning data modules: audio or latents to the trainings, endless, reproducible and resumable mid-epoch.

Audio batch: {"audio": (B, 2, S) float32, "num_samples": (B,) int64 unpadded samples, "prompt": list[str],
"seconds_start": (B,) float32, "seconds_total": (B,) float32}.
Latent batch: {"latents": (B, C, F) float32 posterior samples, "frame_mask": (B, F) bool True = real, "prompt",
"seconds_start", "seconds_total" as above}.

The training stream has no end and no epochs: limit it with the trainer's steps or time, and validate with
`val_check_interval` in batches and `check_val_every_n_epoch=None`.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loops.progress import _ProcessedTracker as ProcessedTracker

from data.audio import SAMPLE_RATE
from data.augmentation import AugmentationConfig
from data.captions import Captioner
from data.corpus import CorpusSource, named_corpus
from data.folder import FolderSource
from data.latent_folder import LatentIndex
from data.latent_source import LatentSource
from data.loading import Source, TrainingStream, ValidationBatches
from data.mixture import MixedSource
from data.shard_loading import ShardSource, ShardStream
from models.errors import UserError, check_bounds

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, and how it is cut."""

    folder: str | None = None
    """A folder of audio with captions, or a manifest (.jsonl, .csv); none: the procedural corpus, drawn on the fly."""
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    """Several sources of audio by weight instead: {instruments: 5, nature: 2, my_folder: 1}. `synthetic` (or `nature`
    and `machines`, parts of it) and `instruments` are drawn on the fly; any other name is a folder or manifest."""
    soundfont: str | None = None
    """The General MIDI SoundFont that plays the instruments of a mixture; none: the installed one."""
    shards: tuple[str, ...] | str | None = None
    """Instead of a folder: WebDataset shards of audio, as `python -m data.shards` writes them. A path with braces
    ("shards/{00000..00127}.tar"), a folder, an http(s) address or "pipe:COMMAND", or a list of such sources."""
    shard_weights: tuple[float, ...] = ()
    """How often each source of `shards` is drawn from, in proportion; none: all alike."""
    captions: str | None = None
    """A rule of your own for prompts, "module:function": from a clip's metadata (a dict) to a prompt, a list of
    prompts of which one is drawn, or None to leave the clip out."""
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    """Changes to training crops of a folder or of shards, each with a probability; off by default."""
    latents: tuple[str, ...] | str | None = None
    """Instead of audio: a folder of latent shards written by `python -m data.latents`, or a list of them, where one
    named twice weighs twice (diffusion training)."""
    replay: int = 0
    """Clips of the procedural corpus, which checkpoints/demo was trained on, that are half of what is drawn in
    fine-tuning on a folder (diffusion training), so that old prompts survive; 0: none, for a model of other sounds."""
    crop_samples: int = 65_536
    """Length of a training crop (samples); of latents, as many frames as hold it."""
    batch_size: int = 8
    """Crops in a batch, per process."""
    crops_per_clip: int = 4
    """Crops taken of one drawn clip of a corpus, spread over as many batches."""
    num_workers: int = 1
    """Processes that prepare data ahead; 0: none."""
    num_validation: int = 32
    """Most crops in the validation set, over all processes."""
    validation_share: float = 0.02
    """Share of a folder's files held out for validation, at least one (0 to 1)."""
    max_unreadable_share: float = 0.05
    """Stop when more than this share of the files cannot be read (0 to 1); a single file never stops the run."""

    def __post_init__(self) -> None:
        if self.latents == ():
            raise UserError("data.latents is an empty list: give a folder, or leave it out to train on audio")
        given = [name for name in ("folder", "mixture", "shards", "latents") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(
                f"give one of data.folder, data.mixture, data.shards and data.latents, got {' and '.join(given)}; "
                "a mixture may name folders, and python -m data.latents encodes it"
            )
        if self.replay and (self.shards is not None or self.mixture):
            raise UserError(f"data.replay is for fine-tuning on data.folder: with data.{given[0]} set --data.replay 0")
        if self.shards == () or (self.shard_weights and self.shards is None):
            raise UserError("data.shards is empty: give a source, or leave it and data.shard_weights out")
        for weight in self.shard_weights:
            check_bounds("data.shard_weights", weight, 1e-6, 1e6)
        if self.latents is not None and self.replay:
            raise UserError(
                "data.replay encodes clips of the corpus beside data.folder: with data.latents set --data.replay 0 and "
                "add a folder of such latents (python -m data.latents) to the list"
            )
        check_bounds("data.crop_samples", self.crop_samples, 1_024, 3_600 * SAMPLE_RATE)
        check_bounds("data.batch_size", self.batch_size, 1, 65_536)
        check_bounds("data.crops_per_clip", self.crops_per_clip, 1, 10_000)
        check_bounds("data.replay", self.replay, 0, 10**7)
        check_bounds("data.num_workers", self.num_workers, 0, 1_024)
        check_bounds("data.num_validation", self.num_validation, 0, 10**6)
        check_bounds("data.validation_share", self.validation_share, 0, 1)
        check_bounds("data.max_unreadable_share", self.max_unreadable_share, 0, 1)

    def check_audio_only(self) -> None:
        """Refuse what trainings other than the diffusion model's have no use for."""
        if self.latents is not None or self.replay:
            raise UserError("data.latents and data.replay are for train.diffusion: this training takes data.folder")


class StreamDataModule(lightning.LightningDataModule):
    """Serves a source, and remembers how many of its batches were trained on (prefetched ones do not count)."""

    def __init__(self, config: DataConfig, seed: int = 0) -> None:
        super().__init__()
        if seed < 0:
            raise UserError(f"the data seed must not be negative, got {seed}")
        self.config = config
        self.seed = seed
        self.source: Source | ShardSource | None = None
        self._stream: ShardStream | None = None
        self._readers: list[dict[str, Any]] | None = None  # of a checkpoint, one for each process
        self._validation: ValidationBatches | None = None
        self._batches_before = 0
        self._processed_before: int | None = None

    def make_source(self) -> Source | ShardSource:
        """Open what the configuration names."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 the hook's signature
        if self.source is None:
            self.source = self.make_source()

    def train_dataloader(self) -> TrainingStream | ShardStream:
        self.setup()
        self._batches_before = self.batches_consumed
        self._processed_before = self._processed()
        options = (self.config.batch_size, self.config.num_workers, *self._rank(), lambda: self.batches_consumed)
        if isinstance(self.source, ShardSource):
            self._stream = ShardStream(self.source, *options, saved=self._readers)
            return self._stream
        assert self.source is not None
        return TrainingStream(self.source, *options)

    def val_dataloader(self) -> ValidationBatches:
        self.setup()
        assert self.source is not None
        if self._validation is None:
            self._validation = ValidationBatches(
                self.source, self.config.batch_size, self.config.num_workers, *self._rank()
            )
        return self._validation

    @property
    def batches_consumed(self) -> int:
        """Batches of this process that reached a training step so far, over all resumed runs."""
        if self._processed_before is None:
            return self._batches_before
        return self._batches_before + self._processed() - self._processed_before

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            if self._stream is not None:  # each process goes on from its own; no process waits for others here
                self._readers = [self._stream.state(self.batches_consumed)] * self._rank()[1]
                self._stream = None
            self._batches_before = self.batches_consumed
            self._processed_before = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; called on every process, since each knows its own readers alone."""
        world_size = self._rank()[1]
        readers = self._all_readers()
        return {
            "batches": self.batches_consumed,
            "items": self.batches_consumed * self.config.batch_size * world_size,
            "seed": self.seed,
        } | ({} if readers is None else {"readers": readers})

    def _all_readers(self) -> list[dict[str, Any]] | None:
        """Where the readers of shards of all processes are."""
        if self._stream is None:
            return self._readers
        own = self._stream.state(self.batches_consumed)
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return [own]
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
        return gathered

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._readers = state_dict.get("readers")
        if state_dict["seed"] != self.seed:
            logger.warning(
                "the checkpoint's data seed is %d, this run's is %d: the order of the data changes here",
                state_dict["seed"],
                self.seed,
            )
        # With another batch size or number of processes, go on after as many items.
        self._batches_before = -(-state_dict["items"] // (self.config.batch_size * self._rank()[1]))
        self._processed_before = None

    def _processed(self) -> int:
        """Training batches the present trainer has processed; its loop restores this count on resume."""
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
        assert isinstance(progress, ProcessedTracker)
        return progress.processed

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


class AudioDataModule(StreamDataModule):
    """Random crops of audio: a folder's, of shards, the procedural corpus's, or a mixture's."""

    def make_source(self) -> Source | ShardSource:
        config = self.config
        if config.shards is not None:
            return ShardSource(
                config.shards,
                config.shard_weights,
                self.seed,
                crop_samples=config.crop_samples,
                num_validation=config.num_validation,
                validation_share=config.validation_share,
                max_unreadable_share=config.max_unreadable_share,
                captioner=Captioner(config.captions),
                augmentation=config.augmentation,
            )
        if config.mixture:
            parts = [self._open(name) for name in config.mixture]
            return MixedSource(parts, list(config.mixture.values()))
        return self._open(config.folder or "synthetic")

    def _open(self, name: str) -> Source:
        """Open a corpus by its name, or a folder."""
        config = self.config
        corpus = None if name == config.folder else named_corpus(name, config.soundfont)
        if corpus is not None:
            return CorpusSource(
                corpus, self.seed, config.crop_samples, config.crops_per_clip, config.num_validation
            )  # fmt: skip
        return FolderSource(
            name,
            self.seed,
            crop_samples=config.crop_samples,
            num_validation=config.num_validation,
            validation_share=config.validation_share,
            max_unreadable_share=config.max_unreadable_share,
            captioner=Captioner(config.captions),
            augmentation=config.augmentation,
        )

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        parts = self.source.sources if isinstance(self.source, MixedSource) else [self.source]
        names = [name for part in parts if isinstance(part, FolderSource) for name in part.unreadable.listed()]
        if names:
            logger.warning("%d audio files could not be read and were left out: %s", len(names), ", ".join(names))


class LatentDataModule(StreamDataModule):
    """Random crops of pre-encoded latents."""

    def make_source(self) -> Source:
        if self.config.latents is None:
            raise UserError("data.latents is not set: write latents with python -m data.latents and give their folder")
        folders = self.config.latents
        first = Path(folders if isinstance(folders, str) else folders[0])
        crop_frames = -(-self.config.crop_samples // LatentIndex.load(first).hop_length)
        captioner = Captioner(self.config.captions)
        return LatentSource(folders, self.seed, crop_frames, self.config.num_validation, captioner)
