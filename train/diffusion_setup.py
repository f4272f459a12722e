"""What a diffusion training starts from: a new model on trained parts or a whole trained model, and its data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import LightningDataModule

from data.datamodule import AudioDataModule, DataConfig, LatentDataModule
from data.encoding import fingerprint
from data.latent_folder import LatentIndex
from data.tuning import TuningDataModule
from models.checkpoint import SHIPPED_MODEL
from models.errors import UserError
from models.text_encoder import TextEncoder
from models.text_to_audio import TextToAudio, TextToAudioConfig
from models.vae import VAE
from train.diffusion_training import NoiseConfig
from train.optimisation import OptimiserConfig
from train.trainer import TrainerConfig


def default_config(arguments: Sequence[str], new: Path, tuning: Path) -> Path:
    """Return what applies without `--config`: fewer and smaller steps where a trained model is gone on from."""
    return tuning if any(argument.split("=")[0] == "--init_from" for argument in arguments) else new


def check_settings(
    model: TextToAudioConfig,
    noise: NoiseConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    init_from: Path | None,
) -> None:
    """Refuse settings that do not go together, before anything long begins."""
    if optimiser.name == "muon" and trainer.strategy == "fsdp":
        raise UserError("optimiser.name muon needs whole matrices on every device: with strategy fsdp take adamw")
    if init_from is not None:
        return  # the model has queues of its own, which are checked when it is there
    noise.check_queues(model.queues)
    if data.replay:
        raise UserError("data.replay is for fine-tuning a whole model: give it with --init_from, or set data.replay 0")


def new_model(model: TextToAudioConfig, vae: Path | None, text_encoder: Path | None) -> TextToAudio:
    """Return an untrained U-Net on a trained autoencoder and text encoder; by default the shipped ones."""
    return TextToAudio(model, VAE.load(vae or SHIPPED_MODEL), TextEncoder.load(text_encoder or SHIPPED_MODEL))


def trained_model(
    init_from: Path, model: TextToAudioConfig, vae: Path | None, text_encoder: Path | None
) -> TextToAudio:
    """Return a whole trained model to go on from.

    Raises:
        UserError: other sizes or parts are given, which it cannot take.
    """
    for name, given in (("vae", vae), ("text_encoder", text_encoder)):
        if given is not None:
            raise UserError(f"--init_from goes on from a whole model, with its own {name}: leave --{name} out")
    network = TextToAudio.load(init_from)
    if model not in (TextToAudioConfig(), replace(network.config, known_seconds=model.known_seconds)):
        raise UserError(f"{init_from} has another configuration than the given `model`: leave `model` out, it is kept")
    network.unet.requires_grad_(True)
    network.conditioner.requires_grad_(True)
    return network


def check_latents(folders: tuple[str, ...] | str, vae: VAE) -> None:
    """Refuse latents that another autoencoder wrote; `LatentSource` sees to it that all folders are of one."""
    folder = Path(folders if isinstance(folders, str) else folders[0])
    if LatentIndex.load(folder).origin["vae"] != fingerprint(vae):
        raise UserError(f"{folder} holds latents of another autoencoder: encode anew with python -m data.latents")


def data_module(
    data: DataConfig, network: TextToAudio, init_from: Path | None, out: Path, seed: int
) -> LightningDataModule:
    """Return the data that the configuration names; a folder's latents are encoded once, to `out`, in fine-tuning."""
    if data.latents is not None:
        check_latents(data.latents, network.vae)
        return LatentDataModule(data, seed)
    if init_from is not None and data.folder is not None:
        return TuningDataModule(data, init_from, out, network.vae.num_frames(data.crop_samples), seed)
    return AudioDataModule(data, seed)
