"""Measure mean and std per channel of a VAE's latents over a data set, and write them into its checkpoint.

    python -m data.latent_statistics --model runs/vae/export [--data.folder my_audio]

`train.vae` measures them on its validation crops; this command measures whole clips, as many as there are. What was
made with the old statistics does not fit any longer: latents written by `data.latents`, and every U-Net trained on
them. The autoencoder itself reconstructs as before.

    latents = (raw latents - mean) / std
"""

import logging
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE, AudioReadError
from data.cli import run
from data.clip_set import ClipSet, read_clips
from data.clips import LatentDataConfig, open_clips
from data.encoding import stream_posteriors
from models.checkpoint import has_part, replace_tensors
from models.device import resolve_device
from models.errors import UserError
from models.vae import VAE, Posterior

logger = logging.getLogger(__name__)

CORPUS_CLIPS = 256
MAX_MEAN_DRIFT = 0.5
"""Most that a channel's mean of another data set's latents may be off (std) before a warning."""
MAX_STD_DRIFT = 1.5
"""Most that a channel's std may be off, as a factor."""
_WHOLE_CORPUS = LatentDataConfig()


class LatentMoments:
    """Mean and std per channel of samples of posteriors, summed in float64 as they come."""

    def __init__(self, num_channels: int) -> None:
        self.num_frames = 0
        self._sums = torch.zeros(2, num_channels, dtype=torch.float64)  # of values and of their squares

    def push(self, posterior: Posterior) -> None:
        """Take more latents: mean and std (batch, channels, frames >= 0)."""
        mean, std = posterior.mean.cpu().double(), posterior.std.cpu().double()
        squares = mean.square() + std.square()  # of a sample, in expectation
        self._sums += torch.stack((mean.sum(dim=(0, 2)), squares.sum(dim=(0, 2))))
        self.num_frames += mean.shape[0] * mean.shape[2]

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Mean and std, each (channels,) float64.

        Raises:
            UserError: nothing was pushed.
        """
        if self.num_frames == 0:
            raise UserError("no audio to measure the latents' statistics on")
        mean, squares = self._sums / self.num_frames
        return mean, (squares - mean.square()).clamp_min(0).sqrt()


@torch.no_grad()
def latent_moments(vae: VAE, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and std per channel of the normalised latents of batches of audio (batch, audio_channels, samples).

    They are 0 and 1 where the audio is like what the VAE's statistics were measured on.
    """
    moments = LatentMoments(vae.config.latent_channels)
    for audio in batches:
        moments.push(vae.posterior(audio))
    return moments.mean_std()


def raw_statistics(vae: VAE, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics of raw latents from those of the normalised ones, each (channels,) float64."""
    old_mean, old_std = (value.cpu().double().flatten() for value in (vae.latent_mean, vae.latent_std))
    return mean * old_std + old_mean, std * old_std


def describe_drift(mean: Tensor, std: Tensor) -> str:
    """Name the worst channels of normalised latents whose mean should be 0 and whose std should be 1."""
    shifted, scaled = int(mean.abs().argmax()), int(std.log().abs().argmax())
    return f"mean {mean[shifted]:+.2f} std in channel {shifted}, std x {std[scaled]:.2f} in channel {scaled}"


def warn_of_drift(mean: Tensor, std: Tensor, advice: str) -> None:
    """Log a warning where normalised latents are far from mean 0 and std 1."""
    if mean.abs().max() > MAX_MEAN_DRIFT or std.log().abs().max() > math.log(MAX_STD_DRIFT):
        logger.warning(
            "this data's latents are off the checkpoint's statistics by more than %g std or a factor of %g (%s); %s",
            MAX_MEAN_DRIFT,
            MAX_STD_DRIFT,
            describe_drift(mean, std),
            advice,
        )


def measure_clips(vae: VAE, source: ClipSet, num_workers: int) -> tuple[Tensor, Tensor]:
    """Mean and std per channel of the normalised latents of all training clips, streamed."""
    numbers = [("train", index) for index in range(source.size("train"))]
    moments = LatentMoments(vae.config.latent_channels)
    with tqdm(total=len(numbers), unit="clip") as progress:
        for clip in read_clips(source, numbers, num_workers):
            try:
                for posterior in () if clip is None else stream_posteriors(vae, clip.audio):
                    moments.push(posterior)
            except AudioReadError as error:
                assert clip is not None
                source.leave_out(clip, error)
            progress.update()
    if names := source.left_out():
        logger.warning("%d audio files could not be read and were left out: %s", len(names), ", ".join(names))
    hours = moments.num_frames * vae.hop_length / SAMPLE_RATE / 3600
    logger.info("measured %d clips, %.2f h of audio", len(numbers), hours)
    return moments.mean_std()


def main(
    model: Path,
    data: LatentDataConfig = _WHOLE_CORPUS,
    clips: int | None = None,
    seed: int = 0,
    force: bool = False,
    device: str = "auto",
) -> None:
    """Measure the latents' mean and std per channel on whole clips, and write them into the VAE's checkpoint.

    Latents written before, and U-Nets trained on them, do not fit the new statistics.

    Args:
        model: checkpoint folder with a VAE; its statistics are replaced.
        data: what is measured: the training clips.
        clips: how many of them; none: all files of the folder, or 256 clips of the procedural corpus.
        seed: of the procedural corpus's clips.
        force: write also where the folder holds a U-Net, which must then be trained anew.
        device: auto, cpu, cuda, mps.

    Raises:
        FileNotFoundError: no such model or folder.
        UserError: the folder holds a U-Net, or there is nothing to measure.
    """
    if clips is not None and clips < 1:
        raise UserError(f"clips must be at least 1, got {clips}")
    vae = VAE.load(model).to(resolve_device(device))
    if has_part(model, "unet") and not force:
        raise UserError(
            f"{model} holds a U-Net trained on latents with its present statistics, which new ones would break: "
            "measure a folder with the VAE alone, or give --force and train the U-Net anew"
        )
    source = open_clips(data, CORPUS_CLIPS if clips is None and data.folder is None else clips, None, seed)
    mean, std = measure_clips(vae, source, data.num_workers)
    raw_mean, raw_std = raw_statistics(vae, mean, std)
    vae.set_latent_statistics(raw_mean, raw_std)  # refuses what cannot normalise
    replace_tensors(model, "vae", {"latent_mean": raw_mean, "latent_std": raw_std})
    sys.stdout.write(f"new against old statistics of {model}: {describe_drift(mean, std)}\n")
    logger.warning("latents encoded with the old statistics, and U-Nets trained on them, do not fit this VAE any more")


if __name__ == "__main__":
    run(main)
