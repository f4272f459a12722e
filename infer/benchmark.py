"""Measure inference: `python -m infer.benchmark vae|unet|fifo`.

The networks are those of a checkpoint (`--model`), or have the sizes of a folder of configurations and random weights
(`--configs configs/stable_audio`). Text is random embeddings: encoding a prompt is done once and not measured.

    vae   encode and decode a clip whole, and streamed in chunks
    unet  one network call on `seconds` of latents, without guidance
    fifo  the endless queue with guidance and streaming decode: until the first sound, then a chunk at a time
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import Tensor

from data.cli import run
from data.encoding import piece_samples
from infer.fifo.config import FifoConfig
from infer.fifo.queue import Fifo
from infer.guidance import GuidanceConfig, GuidedDenoiser
from infer.samplers import make_generators
from infer.speed import Speed, describe_device, measure, write_report
from infer.stream import decode_stream
from models.checkpoint import SHIPPED_MODEL, load_part, load_weights, without_weights
from models.device import resolve_device
from models.errors import UserError
from models.streaming import StreamingDecoder, StreamingEncoder
from models.text_to_audio import Conditioning
from models.unet import UNet, UNetConfig
from models.vae import VAE, VAEConfig

Precision = Literal["float32", "bfloat16", "float16"]
NUM_TOKENS = 79
"""Length of the conditioning: 77 text tokens, 2 timing tokens."""
DEFAULT_FIFO = FifoConfig()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure."""

    device: torch.device
    batch: int
    seconds: float
    """Length of a clip."""
    repeats: int
    compile: bool


def main(
    what: Literal["vae", "unet", "fifo"],
    model: Path = SHIPPED_MODEL,
    configs: Path | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    compile: bool = False,
    batch: int = 1,
    seconds: float = 5.0,
    repeats: int = 5,
    fifo: FifoConfig = DEFAULT_FIFO,
    json: bool = False,
) -> None:
    """Measure seconds of audio per second and peak memory.

    Args:
        what: vae, unet or fifo.
        model: checkpoint folder.
        configs: folder with vae.yaml and diffusion.yaml; networks of these sizes with random weights replace the model.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: number format of convolutions and products (autocast); weights stay float32.
        compile: compile the networks; streaming, which goes layer by layer, stays as it is.
        batch: clips or streams at once.
        seconds: length of a clip (s).
        repeats: calls that count, after the warm-up; the median is shown.
        fifo: the queue.
        json: write JSON instead of a table.
    """
    if min(batch, repeats) < 1 or not 0 < seconds < float("inf"):
        raise UserError(f"batch, repeats and seconds must be above 0, got {batch}, {repeats} and {seconds:g}")
    settings = Settings(device=resolve_device(device), batch=batch, seconds=seconds, repeats=repeats, compile=compile)
    with torch.no_grad(), torch.autocast(settings.device.type, getattr(torch, precision), precision != "float32"):
        vae = load_vae(model, configs).to(settings.device) if what != "unet" else None
        unet = load_unet(model, configs).to(settings.device) if what != "vae" else None
        if vae is not None and unet is not None:
            speeds = list(fifo_speeds(vae, unet, settings, fifo))
        else:
            speeds = list(vae_speeds(vae, settings)) if vae is not None else [unet_speed(unet, settings)]
    parameters = sum(p.numel() for network in (vae, unet) if network is not None for p in network.parameters())
    about = {
        "networks": f"{what} of {model if configs is None else configs}, {parameters / 1e6:.1f} M parameters",
        "device": describe_device(settings.device),
        "precision": precision,
        "compile": compile,
        "batch": batch,
        "torch": torch.__version__,
    }
    write_report(about, speeds, json)


def load_vae(model: Path, configs: Path | None) -> VAE:
    """A checkpoint's autoencoder, or one of a configuration's sizes."""
    if configs is None:
        return VAE.load(model)
    return VAE(VAEConfig(**read_config(configs / "vae.yaml")["model"])).eval().requires_grad_(False)


def load_unet(model: Path, configs: Path | None) -> UNet:
    """A checkpoint's U-Net, or one of a configuration's sizes."""
    if configs is not None:
        config = UNetConfig(**read_config(configs / "diffusion.yaml")["model"]["unet"])
        return UNet(config).eval().requires_grad_(False)
    config, state = load_part(model, "unet")
    with without_weights():
        unet = UNet(UNetConfig(**config))
    load_weights(unet, state, model)
    return unet.eval().requires_grad_(False)


def read_config(path: Path) -> dict:
    """Read a training's YAML file."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration {path}: expected a folder such as configs/stable_audio")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def vae_speeds(vae: VAE, settings: Settings) -> Iterator[Speed]:
    """Encode and decode, whole and streamed."""
    hop, device = vae.hop_length, settings.device
    num_frames = max(1, round(settings.seconds * vae.config.sample_rate / hop))
    audio = 0.1 * torch.randn(settings.batch, vae.config.audio_channels, num_frames * hop, device=device)
    latents = torch.randn(settings.batch, vae.config.latent_channels, num_frames, device=device)
    push = max(1, piece_samples(device) // hop)
    if settings.compile:
        vae.encoder.compile()
        vae.decoder.compile()

    def stream_encode() -> None:
        encoder = StreamingEncoder(vae)
        for piece in audio.split(push * hop, dim=-1):
            encoder.push(piece)
        encoder.finish()

    def stream_decode() -> None:
        decoder = StreamingDecoder(vae)
        for piece in latents.split(push, dim=-1):
            decoder.push(piece)
        decoder.finish()

    calls = {
        f"streamed encode, {push} frames a call": stream_encode,
        f"streamed decode, {push} frames a call": stream_decode,
        "whole encode": lambda: vae.encode(audio),
        "whole decode": lambda: vae.decode(latents),
    }  # small ones first: freed memory may stay with the process
    audio_seconds = settings.batch * num_frames * hop / vae.config.sample_rate
    for name, call in calls.items():
        yield measure(name, call, audio_seconds, device, settings.repeats)


def conditioning(unet: UNet, batch: int, device: torch.device) -> Conditioning:
    """Random embeddings of text and timing."""
    context = torch.randn(batch, NUM_TOKENS, unet.config.context_width, device=device)
    return Conditioning(context, torch.ones(batch, NUM_TOKENS, dtype=torch.bool, device=device))


def unet_speed(unet: UNet | None, settings: Settings) -> Speed:
    """One network call at a noise level per frame."""
    assert unet is not None
    hop, rate = VAEConfig().hop_length, VAEConfig().sample_rate
    num_frames = max(1, round(settings.seconds * rate / hop))
    latents = torch.randn(settings.batch, unet.config.latent_channels, num_frames, device=settings.device)
    t = torch.rand(settings.batch, num_frames, device=settings.device)
    given = conditioning(unet, settings.batch, settings.device)
    if settings.compile:
        unet.compile()
    return measure(
        f"network call, {num_frames} frames",
        lambda: unet(latents, t, given.context, given.context_mask),
        settings.batch * num_frames * hop / rate,
        settings.device,
        settings.repeats,
    )


def fifo_speeds(vae: VAE, unet: UNet, settings: Settings, config: FifoConfig) -> Iterator[Speed]:
    """Time to the first chunk, and a chunk once the queue is full, decoded."""
    batch, device = settings.batch, settings.device
    if settings.compile:
        unet.compile()
    prompts, nothing = conditioning(unet, batch, device), conditioning(unet, batch, device)
    denoiser = GuidedDenoiser(unet, prompts, nothing, GuidanceConfig(scale=4.0))

    def start() -> Iterator[Tensor]:
        generators = make_generators(0, batch)
        return Fifo(denoiser, config, channels=unet.config.latent_channels, generators=generators, device=device)

    chunk_seconds = batch * config.chunk * vae.hop_length / vae.config.sample_rate
    yield measure("queue until its first chunk", lambda: next(start()), chunk_seconds, device, 1, warm_up=0)
    queue = start()
    yield measure("queue, a chunk", lambda: next(queue), chunk_seconds, device, settings.repeats)
    if batch == 1:
        sound = decode_stream(start(), vae)
        yield measure("queue and decoding, a chunk", lambda: next(sound), chunk_seconds, device, settings.repeats)


if __name__ == "__main__":
    run(main, positionals=("what",))
