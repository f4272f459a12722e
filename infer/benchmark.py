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
from infer.fifo import EndlessStream, QueueOptions, StreamConfig
from infer.speed import NUM_TOKENS, Speed, describe_device, measure, write_report
from models.checkpoint import SHIPPED_MODEL, load_config, load_part, load_weights, without_weights
from models.device import Precision, autocast_to, compile_network, resolve_device
from models.errors import UserError
from models.queue import QueueConfig
from models.streaming import StreamingDecoder, StreamingEncoder
from models.text_to_audio import Conditioning
from models.texts import Text
from models.timing import Position
from models.unet import UNet, UNetConfig
from models.vae import VAE, VAEConfig


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
    queue: QueueOptions = QueueOptions(),  # noqa: B008 - frozen
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
        queue: the queue, where it is not the one that the model was trained for.
        json: write JSON instead of a table.
    """
    if min(batch, repeats) < 1 or not 0 < seconds < float("inf"):
        raise UserError(f"batch, repeats and seconds must be above 0, got {batch}, {repeats} and {seconds:g}")
    settings = Settings(device=resolve_device(device), batch=batch, seconds=seconds, repeats=repeats, compile=compile)
    with torch.no_grad(), autocast_to(settings.device, precision):
        vae = load_vae(model, configs).to(settings.device) if what != "unet" else None
        unet = load_unet(model, configs).to(settings.device) if what != "vae" else None
        if vae is not None and unet is not None:
            speeds = list(fifo_speeds(BareHost(vae, unet, load_queues(model, configs)), settings, queue))
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


class BareHost:
    """A U-Net and a VAE that `infer.fifo` can play without a text encoder: every text is other random embeddings."""

    max_seconds = known_seconds = None

    def __init__(self, vae: VAE, unet: UNet, queues: tuple[QueueConfig, ...]) -> None:
        self.vae = vae
        self.unet = unet
        self.queues = queues
        self.device = vae.latent_mean.device
        self.latent_channels = unet.config.latent_channels
        self.hop_length = vae.hop_length
        self.sample_rate = vae.config.sample_rate
        self.window_frames = max(queue.window_frames for queue in queues)

    def noise_time(self, position: Tensor) -> Tensor:
        """Return t."""
        return position

    def rows(
        self, text: Text, position: Position, guidance_scale: float, content_scale: float
    ) -> list[tuple[Conditioning, float]]:
        """Return one row with random embeddings."""
        del text, position, content_scale
        return [(conditioning(self.unet, 1, self.device), guidance_scale)]

    def null_row(self, negative_prompt: str | None, position: Position) -> Conditioning:
        """Return another such row."""
        del negative_prompt, position
        return conditioning(self.unet, 1, self.device)

    def network(self, latents: Tensor, t: Tensor, given: Conditioning) -> Tensor:
        """Predict v."""
        return self.unet(latents, t, given.context, given.context_mask).float()

    def prepare(self, precision: Precision, compile: bool) -> None:
        """Compile the U-Net; the precision is that of the whole benchmark."""
        del precision
        if compile:
            compile_network(self.unet)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole clips."""
        return self.vae.decode(latents)

    def decoder(self) -> StreamingDecoder:
        """Return a new streamed decoding."""
        return StreamingDecoder(self.vae)

    def encode(self, audio: Tensor) -> Tensor:
        """Encode whole clips."""
        return self.vae.encode(self.vae.from_stereo(audio))

    def encoder(self) -> StreamingEncoder:
        """Return a new streamed encoding."""
        return StreamingEncoder(self.vae)

    def fingerprint(self) -> str:
        """Say that nothing of it is worth saving."""
        return "benchmark"


def load_queues(model: Path, configs: Path | None) -> tuple[QueueConfig, ...]:
    """A checkpoint's queues, or those of a configuration."""
    given = read_config(configs / "diffusion.yaml")["model"] if configs is not None else load_config(model, "training")
    return tuple(QueueConfig(**queue) for queue in given.get("queues", ())) or (QueueConfig(),)


def fifo_speeds(host: BareHost, settings: Settings, queue: QueueOptions) -> Iterator[Speed]:
    """Time to the first chunk, and a chunk once the queue is full, decoded."""
    batch, device = settings.batch, settings.device
    if settings.compile:
        host.prepare("float32", compile=True)

    def start() -> EndlessStream:
        return EndlessStream(host, ["a sound"] * batch, StreamConfig(queue=queue))

    stream = start()
    chunk_seconds = batch * stream.chunk_samples / host.sample_rate
    yield measure("queue until its first chunk", lambda: start().next_latents(), chunk_seconds, device, 1, warm_up=0)
    yield measure("queue, a chunk", stream.next_latents, chunk_seconds, device, settings.repeats)
    sound = start()
    yield measure("queue and decoding, a chunk", lambda: next(sound), chunk_seconds, device, settings.repeats)


if __name__ == "__main__":
    run(main, positionals=("what",))
