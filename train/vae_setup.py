"""What an autoencoder's training starts from: settings that go together, a new autoencoder or a trained one."""

from pathlib import Path

from data.audio import SAMPLE_RATE
from data.datamodule import DataConfig
from models.discriminator import DiscriminatorConfig
from models.errors import UserError
from models.vae import VAE, VAEConfig
from train.trainer import TrainerConfig
from train.vae_training import Part, VAELossConfig


def part_to_train(init_from: Path | None, part: Part | None) -> Part:
    """Return which part is trained: by default all of a new autoencoder, and a trained one's decoder."""
    if init_from is None and part not in (None, "all"):
        raise UserError(f"--train {part} needs a trained autoencoder: give its folder with --init_from")
    return part or ("all" if init_from is None else "decoder")


def check_settings(
    model: VAEConfig, discriminator: DiscriminatorConfig, loss: VAELossConfig, data: DataConfig, trainer: TrainerConfig
) -> None:
    """Refuse settings that do not go together, before anything long begins."""
    if discriminator.audio_channels != model.audio_channels or model.audio_channels not in (1, 2):
        raise UserError(
            "model.audio_channels and discriminator.audio_channels must both be 1 or both 2, "
            f"got {model.audio_channels} and {discriminator.audio_channels}"
        )
    if model.sample_rate != SAMPLE_RATE:
        raise UserError(f"model.sample_rate must be the data's {SAMPLE_RATE}, got {model.sample_rate}")
    data.check_audio_only()
    longest = max(*loss.spectral.window_lengths, *discriminator.window_lengths)
    if data.crop_samples < longest:
        raise UserError(f"data.crop_samples must hold the longest window, {longest} samples, got {data.crop_samples}")
    if data.num_validation < 1:
        raise UserError("data.num_validation must be at least 1: the latents' statistics are measured there")
    if trainer.accumulate_grad_batches != 1:
        raise UserError("the autoencoder cannot accumulate gradients: raise data.batch_size or trainer.devices")


def trained_vae(init_from: Path, model: VAEConfig) -> VAE:
    """Return a trained autoencoder to go on from.

    Raises:
        UserError: other sizes are given, which it cannot take.
    """
    vae = VAE.load(init_from).train().requires_grad_(True)
    if model not in (VAEConfig(), vae.config):
        raise UserError(f"{init_from} has another configuration than the given `model`: leave `model` out, it is kept")
    return vae
