"""Train the latent diffusion model: `python -m train.diffusion [--config configs/.../diffusion.yaml]`.

What is computed is in `train.diffusion_training`; this is the command around it.
"""

import logging
import sys
from pathlib import Path

from data.cli import run
from data.datamodule import DataConfig
from models.text_to_audio import TextToAudioConfig
from train.callbacks import Demos, Export
from train.diffusion_setup import check_settings, data_module, default_config, new_model, trained_model
from train.diffusion_training import ConditioningConfig, DemoConfig, DiffusionTraining, NoiseConfig
from train.optimisation import OptimiserConfig
from train.trainer import CONFIGS, TrainerConfig, fit, seed_run

logger = logging.getLogger(__name__)


def main(
    *,
    model: TextToAudioConfig,
    noise: NoiseConfig,
    conditioning: ConditioningConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    demo: DemoConfig = DemoConfig(),  # noqa: B008
    vae: Path | None = None,
    text_encoder: Path | None = None,
    init_from: Path | None = None,
    run: Path = Path("runs/diffusion"),
    seed: int = 0,
    resume: str | None = None,
    compile: bool = False,
    activation_checkpointing: bool = False,
) -> None:
    """Train the U-Net on pre-encoded latents, on a folder of audio or on the procedural corpus.

    Without `--config`, configs/demo/diffusion.yaml applies; with `--init_from` it is configs/finetune/diffusion.yaml.

    Args:
        model: sizes of the U-Net and what conditions it.
        noise: noise levels.
        conditioning: what is left out of text and timing.
        optimiser: of U-Net and conditioner, and their average.
        data: what is trained on; audio that is not pre-encoded is encoded as it comes, or with `init_from` a folder's
            once, before the start, to RUN/latents.
        trainer: length, devices, precision.
        demo: prompts that are rendered as training goes.
        vae: checkpoint folder with the trained autoencoder; none: the shipped model's.
        text_encoder: checkpoint folder with the trained text encoder; none: the shipped model's.
        init_from: checkpoint folder of a whole model to go on from, instead of model, vae and text_encoder; crops
            longer than its window make the window longer.
        run: folder for logs, demos, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and noise.
        resume: "last", or a checkpoint's path.
        compile: compile the U-Net (slow start, faster steps).
        activation_checkpointing: save memory by computing the U-Net's activations twice.
    """
    check_settings(model, noise, optimiser, data, trainer, init_from)
    seed_run(seed)
    if init_from is None:
        network = new_model(model, vae, text_encoder)
        window_frames = model.window_frames
    else:
        network = trained_model(init_from, model, vae, text_encoder)
        window_frames = max(network.vae.num_frames(data.crop_samples), network.config.window_frames)
    network.unet.activation_checkpointing = activation_checkpointing
    if compile:
        network.unet.compile(dynamic=False)
    module = DiffusionTraining(
        network,
        noise,
        conditioning,
        optimiser,
        demo,
        trainer.max_steps,
        seed,
        window_frames=window_frames,
        # For one shape: with any number of tokens the compiled step of torch 2.11 fails on a CPU.
        num_tokens=network.max_tokens if compile else None,
        compares_latents=init_from is not None,
    )
    source = data_module(data, network, init_from, run / "latents", seed)
    callbacks = [Demos(run / "demos", network.vae.config.sample_rate), Export(run / "export")]
    fit(module, source, trainer, run, resume, callbacks)
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, default_config(sys.argv[1:], CONFIGS / "demo/diffusion.yaml", CONFIGS / "finetune/diffusion.yaml"))
