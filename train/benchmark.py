"""Measure a training step: `python -m train.benchmark vae|diffusion [--config configs/.../vae.yaml]`.

The options are those of the training, so that its YAML can be given. Steps run as in the training, in Lightning, with
its optimisers, clipping, averages and number format, on one device; the data is random and prepared beforehand: audio
for the autoencoder, latents and embedded text for the diffusion model.
"""

import dataclasses
import sys
import time
from statistics import median
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.audio import SAMPLE_RATE
from data.cli import run
from data.datamodule import DataConfig
from infer.speed import (
    NUM_TOKENS,
    WARM_UP,
    Speed,
    describe_device,
    peak_memory,
    reset_peak_memory,
    synchronise,
    write_report,
)
from models.discriminator import DiscriminatorConfig
from models.errors import UserError
from models.text_encoder import TextEncoder
from models.text_to_audio import TextToAudio, TextToAudioConfig
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig
from train.band_losses import ToneLossConfig
from train.diffusion_training import ConditioningConfig, DemoConfig, DiffusionTraining, NoiseConfig
from train.optimisation import OptimiserConfig
from train.spectral_training import TonePathConfig, vae_training
from train.trainer import CONFIGS, TrainerConfig, seed_run
from train.vae_training import VAELossConfig, VAEStagesConfig

NEVER = 10**12
NO_DEMO = DemoConfig()
HOP_LENGTH = WaveformConfig().hop_length
"""Of the autoencoder that the latents are thought to come from."""


class StepTimer(Callback):
    """Durations of training steps after the warm-up."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            reset_peak_memory(pl_module.device)
        synchronise(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        synchronise(pl_module.device)
        if batch_idx >= WARM_UP:
            self.durations.append(time.perf_counter() - self._start)


def measure_steps(
    name: str, module: LightningModule, batch: dict[str, Any], seconds: float, config: TrainerConfig, repeats: int
) -> Speed:
    """Train on one batch, `seconds` of audio, again and again."""
    timer = StepTimer()
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[timer],
    )
    trainer.fit(module, DataLoader([batch] * (WARM_UP + repeats), batch_size=None))  # pyright: ignore[reportArgumentType]
    device = trainer.strategy.root_device
    return Speed(
        operation=name,
        audio_seconds=seconds,
        seconds=median(timer.durations),
        peak_mib=peak_memory(device) / 2**20,
    )


def benchmark_vae(
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
    compile: bool = False,
    repeats: int = 5,
    json: bool = False,
) -> None:
    """Measure a step of the autoencoder's training, in each of its stages.

    Args:
        model: the autoencoder's sizes.
        discriminator: the discriminators' sizes.
        loss: terms and weights.
        stages: all of them are measured, whenever they begin.
        optimiser: of both networks.
        data: length of a crop and size of the batch.
        trainer: accelerator and precision.
        tones: what kind "bands" needs besides.
        tone_path: how the tones of kind "spectral" are trained.
        compile: compile the networks.
        repeats: steps that count, after the warm-up; the median is shown.
        json: write JSON instead of a table.
    """
    seed_run(0)
    module = vae_training(
        tones,
        tone_path,
        vae=VAE(model),
        discriminator=discriminator,
        loss=loss,
        stages=stages,
        optimiser=optimiser,
        num_steps=trainer.max_steps,
        seed=0,
    )
    if compile:
        module.compile_networks()
    seconds = data.batch_size * data.crop_samples / SAMPLE_RATE
    audio = 0.1 * torch.randn(data.batch_size, 2, data.crop_samples)
    measured = {"joint": (NEVER, NEVER), "joint, adversarial": (NEVER, 0), "decoder, adversarial": (0, 0)}
    speeds = []
    for name, (joint_steps, adversarial_start) in measured.items():
        module.stages = dataclasses.replace(stages, joint_steps=joint_steps, adversarial_start=adversarial_start)
        speeds.append(measure_steps(name, module, {"audio": audio}, seconds, trainer, repeats))
    sizes = f"{_millions(module.vae)} M parameters, discriminator {_millions(module.discriminator)} M"
    report(module, sizes, data.batch_size, trainer, compile, speeds, json)


def benchmark_diffusion(
    *,
    model: TextToAudioConfig,
    noise: NoiseConfig,
    conditioning: ConditioningConfig,
    optimiser: OptimiserConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    demo: DemoConfig = NO_DEMO,
    compile: bool = False,
    activation_checkpointing: bool = False,
    repeats: int = 5,
    json: bool = False,
) -> None:
    """Measure a step of the diffusion training, on encoded latents and embedded text.

    Args:
        model: sizes of the U-Net and what conditions it.
        noise: noise levels.
        conditioning: what is left out of text and timing.
        optimiser: of U-Net and conditioner, and their average.
        data: length of a crop and size of the batch.
        trainer: accelerator and precision.
        demo: of no effect on a step; a training's YAML has it.
        compile: compile the U-Net.
        activation_checkpointing: save memory by computing the U-Net's activations twice.
        repeats: steps that count, after the warm-up; the median is shown.
        json: write JSON instead of a table.
    """
    seed_run(0)
    channels, batch, frames = model.unet.latent_channels, data.batch_size, data.crop_samples // HOP_LENGTH
    layers = WaveformConfig(encoder_width=1, decoder_width=16, dilations=())
    smallest = VAE(VAEConfig(latent_channels=channels, waveform=layers))
    network = TextToAudio(model, smallest, cast(TextEncoder, EmbeddedText(model.unet.context_width)))
    network.unet.activation_checkpointing = activation_checkpointing
    if compile:
        network.unet.compile(dynamic=False)
    num_tokens = NUM_TOKENS if compile else None
    module = DiffusionTraining(
        network, noise, conditioning, optimiser, demo, trainer.max_steps, seed=0, num_tokens=num_tokens
    )
    inputs = {
        "latents": torch.randn(batch, channels, frames),
        "frame_mask": torch.ones(batch, frames, dtype=torch.bool),
        "prompt": [""] * batch,
        "seconds_start": torch.zeros(batch),
        "seconds_total": torch.full((batch,), 30.0),
    }
    lengths = sorted({min(frames, queue.window_frames) for queue in model.queues} | {frames})
    uniform = noise.mixture.uniform / sum(noise.mixture.shares)
    queue_frames = sum(min(frames, queue.window_frames) for queue in model.queues) / len(model.queues)
    mean_frames = uniform * frames + (1 - uniform) * queue_frames
    seconds = batch * mean_frames * smallest.hop_length / SAMPLE_RATE
    lengths = " or ".join(str(length) for length in lengths)
    speeds = [measure_steps(f"step, {lengths} frames", module, inputs, seconds, trainer, repeats)]
    report(module, f"{_millions(network.unet)} M parameters", batch, trainer, compile, speeds, json)


class EmbeddedText(nn.Module):
    """Stands for a text encoder whose embeddings are all in its cache."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("embeddings", torch.randn(1, NUM_TOKENS - 2, width), persistent=False)

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (batch, tokens, width) and mask (batch, tokens)."""
        embeddings = cast(Tensor, self.embeddings).expand(len(prompts), -1, -1)
        return embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)


def report(
    module: LightningModule,
    sizes: str,
    batch: int,
    trainer: TrainerConfig,
    compile: bool,
    speeds: list[Speed],
    as_json: bool,
) -> None:
    """Write what was measured to standard output."""
    about = {
        "training": f"{type(module).__name__}, {sizes}",
        "device": describe_device(module.device),
        "precision": trainer.precision,
        "compile": compile,
        "batch": batch,
        "torch": torch.__version__,
    }
    write_report(about, speeds, as_json)


def _millions(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}"


def main(what: Literal["vae", "diffusion"]) -> None:
    """Measure a training step: `python -m train.benchmark vae --help` and `... diffusion --help` list the options.

    Args:
        what: vae or diffusion.
    """
    raise UserError(f"give {what} first: python -m train.benchmark {what} ...")


BENCHMARKS = {"vae": benchmark_vae, "diffusion": benchmark_diffusion}


def start(arguments: list[str]) -> None:
    """Run the benchmark that the first argument names."""
    if arguments and arguments[0] in BENCHMARKS:
        run(BENCHMARKS[arguments[0]], CONFIGS / f"demo/{arguments[0]}.yaml", arguments[1:])
    else:
        run(main, argv=arguments, positionals=("what",))


if __name__ == "__main__":
    start(sys.argv[1:])
