"""Prompts to clips of a fixed length: `python -m infer.generate --prompt "..." --seconds 6`.

Each sample is denoised on its own grid of latents, as many as its length needs, and cut at `seconds`, which is also
what the model is told as seconds_total. Sample k has the seed `seed + k`, whatever the batch it is made in.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE
from data.audio_writer import WRITER_SUFFIXES, write_audio
from data.cli import run
from infer.guidance import GuidanceConfig, check_prompt, prompt_denoiser
from infer.samplers import Method, check_method, draw_noise, make_generators, sample
from infer.stream import check_output, check_seconds, cut, file_name, soft_limit
from models.device import resolve_device
from models.schedule import time_grid
from models.text_to_audio import TextToAudio


@torch.no_grad()
def generate(
    model: TextToAudio,
    prompts: list[str],
    *,
    seconds: float,
    seeds: list[int],
    guidance: GuidanceConfig,
    negative_prompt: str | None = None,
    sampler: Method = "dpmpp_2m",
    eta: float = 0.0,
    num_steps: int = 32,
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """Generate one clip for each prompt and seed, (batch, 2, samples) in [-1, 1].

    Args:
        seconds: length of every clip; the model is told that the piece starts at 0 and is this long.
        on_step: called with the number of steps done.

    Raises:
        ValueError: an argument is outside of its range.
    """
    check_seconds(seconds)
    longest = window_seconds(model)
    if seconds > longest:
        raise ValueError(
            f"seconds must be at most {longest:.2f}, the window the model was trained on, got {seconds:g}; "
            "for longer sound use python -m infer.fifo"
        )
    num_samples = max(1, round(seconds * SAMPLE_RATE))
    num_frames = math.ceil(num_samples / model.vae.hop_length)
    denoiser = prompt_denoiser(
        model, prompts, guidance, negative_prompt=negative_prompt, seconds_start=0.0, seconds_total=seconds
    )
    generators = [make_generators(seed, 1)[0] for seed in seeds]
    noise = draw_noise(generators, model.unet.config.latent_channels, num_frames, model.device)
    latents = sample(denoiser, noise, time_grid(num_steps), sampler, eta, generators, on_step)
    audio = soft_limit(model.vae.decode(latents)).cpu()  # (batch, 2, samples), up to a frame too long
    return torch.stack([torch.cat(list(cut([clip], num_samples)), dim=-1) for clip in audio])


def window_seconds(model: TextToAudio) -> float:
    """Return the length of the longest clip that ordinary sampling makes."""
    return model.config.window_frames * model.vae.hop_length / SAMPLE_RATE


def main(
    prompt: str,
    negative_prompt: str | None = None,
    seconds: float | None = None,
    num_samples: int = 1,
    batch_size: int = 4,
    sampler: Method = "dpmpp_2m",
    num_steps: int = 32,
    eta: float = 0.0,
    guidance_scale: float = 6.0,
    guidance_rescale: float = 0.5,
    seed: int = 0,
    out: Path = Path(),
    model: Path = Path("checkpoints/demo"),
    device: str = "auto",
) -> None:
    """Generate clips of a fixed length from a prompt.

    Args:
        prompt: Description of the sound.
        negative_prompt: What the sound should not be.
        seconds: Length of a clip; none: the window the model was trained on, which is the longest.
        num_samples: How many to make; sample k has the seed seed + k.
        batch_size: How many to make at once.
        sampler: Second order (dpmpp_2m), first order (ddim), or second order with noise (dpmpp_2m_sde).
        num_steps: Network calls per clip.
        eta: Share of fresh noise in every step, 0 to 1; not for dpmpp_2m.
        guidance_scale: How strongly the prompt pulls; 1 is off and twice as fast.
        guidance_rescale: Share, 0 to 1, by which the growth of the prediction under guidance is undone.
        seed: Same seed and device, same sound.
        out: A folder, where files are named after prompt and seed; or a .wav, .flac or .ogg file, to whose name the
            seed is added when there are several.
        model: Folder of the model.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    check_prompt(prompt)
    if seconds is not None:
        check_seconds(seconds)
    check_method(sampler, eta)
    if num_samples < 1 or batch_size < 1 or num_steps < 1:
        raise ValueError(
            f"num_samples, batch_size and num_steps must be at least 1, got {num_samples}, {batch_size} and {num_steps}"
        )
    guidance = GuidanceConfig(scale=guidance_scale, rescale=guidance_rescale)
    seeds = list(range(seed, seed + num_samples))
    paths = _output_paths(out, prompt, seeds)
    bundle = TextToAudio.load(model, resolve_device(device))
    seconds = window_seconds(bundle) if seconds is None else seconds
    num_batches = math.ceil(num_samples / batch_size)
    with tqdm(total=num_batches * num_steps, desc=f"{num_samples} x {seconds:g} s", unit="step") as bar:
        for first in range(0, num_samples, batch_size):
            batch = seeds[first : first + batch_size]
            audio = generate(
                bundle,
                [prompt] * len(batch),
                seconds=seconds,
                seeds=batch,
                guidance=guidance,
                negative_prompt=negative_prompt,
                sampler=sampler,
                eta=eta,
                num_steps=num_steps,
                on_step=lambda _: bar.update(),
            )
            for path, clip in zip(paths[first : first + batch_size], audio, strict=True):
                write_audio(path, clip)
                bar.write(str(path))


def _output_paths(out: Path, prompt: str, seeds: list[int]) -> list[Path]:
    """One file for each seed.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a file's suffix is none that can be written.
    """
    if out.is_dir():
        paths = [out / file_name(prompt, seed) for seed in seeds]
    elif not out.suffix:
        raise FileNotFoundError(
            f"no folder {out}: make it first, or give a file name ending in {', '.join(WRITER_SUFFIXES)}"
        )
    elif len(seeds) == 1:
        paths = [out]
    else:
        paths = [out.with_name(f"{out.stem}-{seed}{out.suffix}") for seed in seeds]
    for path in paths:
        check_output(path)
    return paths


if __name__ == "__main__":
    run(main)
