"""Train the latent diffusion model: `python -m train.diffusion [--config configs/.../diffusion.yaml]`.

What is computed is in `train.diffusion_training`; this is the command around it.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from data.cli import run
from data.datamodule import AudioDataModule, DataConfig, LatentDataModule, TuningDataModule
from data.encoding import fingerprint
from data.latent_folder import LatentIndex
from models.checkpoint import SHIPPED_MODEL
from models.errors import UserError
from models.text_encoder import TextEncoder
from models.text_to_audio import TextToAudio, TextToAudioConfig
from models.vae import VAE
from train.callbacks import Demos, Export
from train.diffusion_training import ConditioningConfig, DemoConfig, DiffusionTraining, NoiseConfig
from train.optimisation import OptimiserConfig
from train.trainer import TrainerConfig, fit, seed_run

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_CONFIG, FINETUNE_CONFIG = CONFIGS / "demo/diffusion.yaml", CONFIGS / "finetune/diffusion.yaml"


def default_config(arguments: Sequence[str]) -> Path:
    """Return what applies without `--config`: fewer and smaller steps where a trained model is gone on from."""
    is_tuning = any(argument.split("=")[0] == "--init_from" for argument in arguments)
    return FINETUNE_CONFIG if is_tuning else DEFAULT_CONFIG


def check_latents(folders: tuple[str, ...] | str, vae: VAE) -> None:
    """Refuse latents that another autoencoder wrote; `LatentSource` sees to it that all folders are of one."""
    folder = Path(folders if isinstance(folders, str) else folders[0])
    if LatentIndex.load(folder).origin["vae"] != fingerprint(vae):
        raise UserError(f"{folder} holds latents of another autoencoder: encode anew with python -m data.latents")


def main(
    *,
    model: TextToAudioConfig,
    noise: NoiseConfig,
    conditioning: ConditioningConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    demo: DemoConfig = DemoConfig(),  # noqa: B008
    vae: Path = SHIPPED_MODEL,
    text_encoder: Path = SHIPPED_MODEL,
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
        vae: checkpoint folder with the trained autoencoder.
        text_encoder: checkpoint folder with the trained text encoder.
        init_from: checkpoint folder of a whole model to go on from; its sizes, VAE and text encoder replace the above,
            and crops longer than its window make the window longer.
        run: folder for logs, demos, `last.ckpt` and the exported model in `export/`.
        seed: of initial weights, data order and noise.
        resume: "last", or a checkpoint's path.
        compile: compile the U-Net (slow start, faster steps).
        activation_checkpointing: save memory by computing the U-Net's activations twice.
    """
    if optimiser.name == "muon" and trainer.strategy == "fsdp":
        raise UserError("optimiser.name muon needs whole matrices on every device: with strategy fsdp take adamw")
    if init_from is None:
        noise.check_queues(model.queues)
    seed_run(seed)
    if init_from is not None:
        network = TextToAudio.load(init_from)
        network.unet.requires_grad_(True)
        network.conditioner.requires_grad_(True)
        frames = network.vae.num_frames(data.crop_samples) if data.latents is None else data.crop_frames
        longest = max(frames, network.config.window_frames)
        network.config = dataclasses.replace(network.config, window_frames=longest)
    else:
        network = TextToAudio(model, VAE.load(vae), TextEncoder.load(text_encoder))
    network.unet.activation_checkpointing = activation_checkpointing
    module = DiffusionTraining(network, noise, conditioning, optimiser, demo, trainer.max_steps, seed)
    module.is_tuning = init_from is not None
    if compile:  # for one shape: with any number of tokens the compiled step of torch 2.11 fails on a CPU
        network.unet.compile(dynamic=False)
        module.num_tokens = network.max_tokens
    if data.latents is not None:
        check_latents(data.latents, network.vae)
        source = LatentDataModule(data, seed)
    elif init_from is not None and data.folder is not None:
        source = TuningDataModule(data, init_from, run / "latents", network.vae.num_frames(data.crop_samples), seed)
    else:
        source = AudioDataModule(data, seed)
    callbacks = [Demos(run / "demos", network.vae.config.sample_rate), Export(run / "export")]
    fit(module, source, trainer, run, resume, callbacks)
    logger.info("wrote %s", run / "export")


if __name__ == "__main__":
    run(main, default_config(sys.argv[1:]))
