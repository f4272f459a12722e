"""Train the autoencoder: `python -m train.vae [--config configs/.../vae.yaml]`.

What is computed is in `train.vae_training`; this is the command around it.
"""

import logging
from pathlib import Path

from data.audio import SAMPLE_RATE
from data.cli import run
from data.datamodule import AudioDataModule, DataConfig
from models.discriminator import DiscriminatorConfig
from models.errors import UserError
from models.vae import VAE, VAEConfig
from train.band_losses import ToneLossConfig
from train.callbacks import Demos, Export
from train.optimisation import OptimiserConfig
from train.spectral_training import TonePathConfig, vae_training
from train.trainer import TrainerConfig, fit, seed_run
from train.vae_training import Part, VAELossConfig, VAEStagesConfig, VAETraining

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs/demo/vae.yaml"


def check_settings(model: VAEConfig, discriminator: DiscriminatorConfig, data: DataConfig, trainer: TrainerConfig):
    """Refuse settings that do not go together, before anything long begins."""
    if discriminator.audio_channels != model.audio_channels or model.audio_channels not in (1, 2):
        raise UserError(
            "model.audio_channels and discriminator.audio_channels must both be 1 or both 2, "
            f"got {model.audio_channels} and {discriminator.audio_channels}"
        )
    if model.sample_rate != SAMPLE_RATE:
        raise UserError(f"model.sample_rate must be the data's {SAMPLE_RATE}, got {model.sample_rate}")
    if data.num_validation < 1:
        raise UserError("data.num_validation must be at least 1: the latents' statistics are measured there")
    if trainer.accumulate_grad_batches != 1:
        raise UserError("the autoencoder cannot accumulate gradients: raise data.batch_size or trainer.devices")


def compile_networks(module: VAETraining) -> None:
    """Compile the networks and the spectral loss in place, each on its own."""
    for part in (module.vae.encoder, module.vae.decoder, module.discriminator, module.spectral_loss):
        part.compile()


def main(
    *,
    model: VAEConfig,
    discriminator: DiscriminatorConfig,
    loss: VAELossConfig,
    stages: VAEStagesConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    tones: ToneLossConfig = ToneLossConfig(),  # noqa: B008
    tone_path: TonePathConfig = TonePathConfig(),  # noqa: B008
    init_from: Path | None = None,
    train: Part | None = None,
    run: Path = Path("runs/vae"),
    seed: int = 0,
    resume: str | None = None,
    compile: bool = False,
) -> None:
    """Train the autoencoder, on the procedural corpus or on the audio in `--data.folder`.

    With `--init_from` the decoder alone trains, unless `--train all` is given: the latents and their statistics
    stay as they are, and U-Nets trained on them go on working. Without it everything trains.

    Args:
        model: the autoencoder's sizes.
        discriminator: the discriminators' sizes.
        loss: terms and weights.
        stages: when the encoder is frozen and the discriminator joins.
        optimiser: of both networks, each with its own.
        data: what is trained on.
        trainer: length, devices, precision.
        tones: what kind "bands" needs besides.
        tone_path: how the tones of kind "spectral" are trained.
        init_from: checkpoint folder of a trained autoencoder to go on from; its sizes replace `model`.
        train: with init_from, what is trained: the decoder, all (latents and statistics then become new ones), or the
            tones of kind "bands", on the tones' term alone and without decoding.
        run: folder for logs, demos, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and noise.
        resume: "last", or a checkpoint's path.
        compile: compile the networks (slow start, faster steps).
    """
    if init_from is None and train not in (None, "all"):
        raise UserError(f"--train {train} needs a trained autoencoder: give its folder with --init_from")
    part = train or ("all" if init_from is None else "decoder")
    seed_run(seed)
    vae = VAE(model) if init_from is None else VAE.load(init_from).train().requires_grad_(True)
    check_settings(vae.config, discriminator, data, trainer)
    module = vae_training(
        tones,
        tone_path,
        vae=vae,
        discriminator=discriminator,
        loss=loss,
        stages=stages,
        optimiser=optimiser,
        num_steps=trainer.max_steps,
        seed=seed,
        part=part,
    )
    if compile:
        compile_networks(module)
    callbacks = [Demos(run / "demos", vae.config.sample_rate), Export(run / "export")]
    fit(module, AudioDataModule(data, seed), trainer, run, resume, callbacks)
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, DEFAULT_CONFIG)
