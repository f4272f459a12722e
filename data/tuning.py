"""The data of fine-tuning: a folder, encoded once before the start, beside replayed clips of the procedural corpus."""

import logging
from pathlib import Path

from data.captions import Captioner
from data.clips import LatentDataConfig, open_clips
from data.datamodule import DataConfig, StreamDataModule
from data.latent_folder import LatentIndex, open_shards, write_latents
from data.latent_source import LatentSource
from data.loading import Source
from models.device import resolve_device
from models.errors import UserError
from models.vae import VAE

logger = logging.getLogger(__name__)


class TuningDataModule(StreamDataModule):
    """Random crops of a folder's latents, and as many of the replayed clips; all are encoded once, before the start.

    A crop that is encoded as it comes costs three times its training step on a CPU, and a small folder's clips come
    again and again. Validation has the folder's clips alone.

    Args:
        config: names the folder; `replay` clips of the procedural corpus come besides.
        model: checkpoint folder with the autoencoder.
        out: folder for the latents; what an interrupted start left there is kept.
        crop_frames: length of a crop, `config.crop_samples` in the model's frames.
    """

    def __init__(self, config: DataConfig, model: Path, out: Path, crop_frames: int, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.model = model
        self.own, self.replayed = out / "own", out / "replayed"
        self.crop_frames = crop_frames
        self.prepare_data_per_node = False  # the run folder is one for all nodes

    def prepare_data(self) -> None:
        config = self.config
        own = LatentDataConfig(
            folder=config.folder,
            num_workers=config.num_workers,
            validation_share=config.validation_share,
            max_unreadable_share=config.max_unreadable_share,
        )
        self.own.parent.mkdir(parents=True, exist_ok=True)
        vae = VAE.load(self.model).to(resolve_device())
        write_latents(vae, open_clips(own, None, None, self.seed), self.own, num_workers=config.num_workers)
        if config.replay:
            logger.info("replaying %d clips of the procedural corpus; --data.replay 0 leaves them out", config.replay)
            corpus = open_clips(LatentDataConfig(), config.replay, 0, self.seed)
            write_latents(vae, corpus, self.replayed, num_workers=config.num_workers)

    def make_source(self) -> Source:
        folders = (self.own, self.replayed) if self.config.replay else (self.own,)
        clips = {folder: len(open_shards(folder, LatentIndex.load(folder), "train")) for folder in folders}
        if not clips[self.own]:
            raise UserError(f"none of the training files in {self.config.folder} can be read")
        drawn = [folder for folder, num in clips.items() for _ in range(round(max(clips.values()) / num))]
        captioner = Captioner(self.config.captions)
        return LatentSource(drawn, self.seed, self.crop_frames, self.config.num_validation, captioner)
