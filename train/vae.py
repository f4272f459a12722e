"""Train the autoencoder: `python -m train.vae [--config configs/.../vae.yaml]`.

What is computed is in `train.vae_training`; this is the command around it.
"""

import logging
from pathlib import Path

from data.cli import run
from data.datamodule import AudioDataModule, DataConfig
from models.discriminator import DiscriminatorConfig
from models.vae import VAE, VAEConfig
from train.band_losses import ToneLossConfig
from train.callbacks import Demos, Export
from train.optimisation import OptimiserConfig
from train.spectral_training import TonePathConfig, vae_training
from train.trainer import CONFIGS, TrainerConfig, fit, seed_run
from train.vae_setup import check_settings, part_to_train, trained_vae
from train.vae_training import Part, VAELossConfig, VAEStagesConfig

logger = logging.getLogger(__name__)


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
        init_from: checkpoint folder of a trained autoencoder to go on from; `model` must be its own, or left out.
        train: with init_from, what is trained: the decoder, all (latents and statistics then become new ones), or the
            tones of kind "bands", on the tones' term alone and without decoding.
        run: folder for logs, demos, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and noise.
        resume: "last", or a checkpoint's path.
        compile: compile the networks (slow start, faster steps).
    """
    part = part_to_train(init_from, train)
    check_settings(model, discriminator, loss, data, trainer)
    seed_run(seed)
    vae = VAE(model) if init_from is None else trained_vae(init_from, model)
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
        module.compile_networks()
    callbacks = [Demos(run / "demos", vae.config.sample_rate), Export(run / "export")]
    fit(module, AudioDataModule(data, seed), trainer, run, resume, callbacks)
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, CONFIGS / "demo/vae.yaml")
