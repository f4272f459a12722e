"""Prompts to clips of a fixed length: `python -m infer.generate --prompt "..." --seconds 6`.

Each sample is denoised on its own grid of latents, as many as its length needs, and cut at `seconds`, which is also
what the model is told as seconds_total. Sample k of a prompt has the seed `seed + k`, whatever the batch it is made in.
With `--init_audio` a clip begins as a sound of the user's: a variation of it, or a span of it made anew.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE, read_audio
from data.audio_writer import WRITER_SUFFIXES, write_audio
from data.cli import run
from data.text_files import read_lines
from infer.edit import Edit, make_edit
from infer.guidance import GuidanceConfig, check_prompt, prompt_denoiser
from infer.limiter import limit
from infer.samplers import Method, check_method, draw_noise, make_generators, sample
from infer.stream import check_output, check_seconds, cut, file_name
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
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
    seconds_total: list[float] | None = None,
    negative_prompt: str | None = None,
    sampler: Method = "dpmpp_2m",
    eta: float = 0.0,
    num_steps: int = 32,
    edit: Edit | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """Generate one clip for each prompt and seed, (batch, 2, samples) in [-1, 1].

    Args:
        seconds: length of every clip; the model is told that the piece starts at 0 and is this long.
        seconds_total: lengths that the model is told instead, one for each prompt.
        edit: the sound that every clip starts from, made for the same `seconds`; None starts from noise.
        on_step: called with the number of steps done.

    Raises:
        UserError: an argument is outside of its range.
    """
    check_length(model, seconds)
    num_samples = max(1, round(seconds * SAMPLE_RATE))
    num_frames = math.ceil(num_samples / model.vae.hop_length)
    denoiser = prompt_denoiser(
        model,
        prompts,
        guidance,
        negative_prompt=negative_prompt,
        seconds_start=0.0,
        seconds_total=seconds_total or seconds,
    )
    generators = [make_generators(seed, 1)[0] for seed in seeds]
    noise = draw_noise(generators, model.unet.config.latent_channels, num_frames, model.device)
    levels = time_grid(num_steps)
    if edit is None:
        latents = sample(denoiser, noise, levels, sampler, eta, generators, on_step)
    else:
        start, levels = edit.noised(noise), edit.strength * levels
        latents = edit.kept(sample(edit.wrap(denoiser), start, levels, sampler, eta, generators, on_step))
    decoded = model.vae.decode(latents).cpu()
    audio = torch.stack([limit(clip) for clip in decoded])  # (batch, 2, samples), up to a frame too long
    if edit is not None:
        audio = edit.mixed(audio, model.vae.hop_length)
    return torch.stack([torch.cat(list(cut([clip], num_samples)), dim=-1) for clip in audio])


def window_seconds(model: TextToAudio) -> float:
    """Return the length of the longest clip that ordinary sampling makes."""
    return model.config.window_frames * model.vae.hop_length / SAMPLE_RATE


def check_length(model: TextToAudio, seconds: float) -> None:
    """Raise ValueError where `model` cannot make a clip of this length at once."""
    check_seconds(seconds)
    longest = window_seconds(model)
    if seconds > longest:
        raise UserError(
            f"seconds must be at most {longest:.2f}, the window the model was trained on, got {seconds:g}; "
            "for longer sound use python -m infer.fifo"
        )


def main(
    prompt: str | None = None,
    prompts: Path | None = None,
    negative_prompt: str | None = None,
    seconds: float | None = None,
    init_audio: Path | None = None,
    strength: float | None = None,
    inpaint: tuple[float, float] | None = None,
    num_samples: int = 1,
    batch_size: int = 4,
    sampler: Method = "dpmpp_2m",
    num_steps: int = 32,
    eta: float = 0.0,
    guidance_scale: float = 6.0,
    guidance_rescale: float = 0.5,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    out: Path = Path(),
    model: Path = SHIPPED_MODEL,
    device: str = "auto",
) -> None:
    """Generate clips of a fixed length from a prompt, from a file of prompts, or from a sound and a prompt.

    Args:
        prompt: Description of the sound.
        prompts: A text file with one description a line, in place of prompt.
        negative_prompt: What the sound should not be.
        seconds: Length of a clip; none: that of init_audio, at most the window the model was trained on.
        init_audio: A sound file to begin from; what lies behind the window is left out.
        strength: How far from init_audio to go, above 0 to 1; none: 0.7, or 1 with inpaint.
        inpaint: Start and end (s) of the part of init_audio to make anew, as [1.5, 3]; the rest stays as it is.
        num_samples: How many to make of each prompt; sample k has the seed seed + k.
        batch_size: How many to make at once.
        sampler: Second order (dpmpp_2m), first order (ddim), or second order with noise (dpmpp_2m_sde).
        num_steps: Network calls per clip.
        eta: Share of fresh noise in every step, 0 to 1; not for dpmpp_2m.
        guidance_scale: How strongly the prompt pulls; 1 is off and twice as fast.
        guidance_rescale: Share, 0 to 1, by which the growth of the prediction under guidance is undone.
        guidance_interval: Noise times between which the prompt pulls.
        seed: Same seed and device, same sound.
        out: A folder, where files are named after prompt and seed; or a .wav, .flac or .ogg file, to whose name the
            seed is added when there are several.
        model: Folder of the model.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    texts = _prompts(prompt, prompts)
    if seconds is not None:
        check_seconds(seconds)
    check_method(sampler, eta)
    if num_samples < 1 or batch_size < 1 or num_steps < 1:
        raise UserError(
            f"num_samples, batch_size and num_steps must be at least 1, got {num_samples}, {batch_size} and {num_steps}"
        )
    if init_audio is None and (strength is not None or inpaint is not None):
        raise UserError("strength and inpaint change a sound: give it with --init_audio FILE")
    guidance = GuidanceConfig(scale=guidance_scale, rescale=guidance_rescale, interval=guidance_interval)
    clips = [(text, seed + k) for text in texts for k in range(num_samples)]
    paths = _output_paths(out, clips)
    bundle = TextToAudio.load(model, resolve_device(device))
    longest = window_seconds(bundle)
    audio = None
    if init_audio is not None:  # what lies behind the window is not read
        audio = torch.from_numpy(read_audio(init_audio, num_samples=math.ceil(longest * SAMPLE_RATE)))
    if seconds is None:
        seconds = longest if audio is None else min(longest, audio.shape[-1] / SAMPLE_RATE)
    check_length(bundle, seconds)
    edit = None if audio is None else make_edit(bundle.vae, audio, seconds, inpaint, strength)
    num_batches = math.ceil(len(clips) / batch_size)
    with tqdm(total=num_batches * num_steps, desc=f"{len(clips)} x {seconds:.4g} s", unit="step") as bar:
        for first in range(0, len(clips), batch_size):
            batch = clips[first : first + batch_size]
            sounds = generate(
                bundle,
                [text for text, _ in batch],
                seconds=seconds,
                seeds=[number for _, number in batch],
                guidance=guidance,
                negative_prompt=negative_prompt,
                sampler=sampler,
                eta=eta,
                num_steps=num_steps,
                edit=edit,
                on_step=lambda _: bar.update(),
            )
            for path, clip in zip(paths[first : first + batch_size], sounds, strict=True):
                write_audio(path, clip)
                bar.write(str(path))


def _prompts(prompt: str | None, prompts: Path | None) -> list[str]:
    """The one prompt, or the lines of a file that are not blank.

    Raises:
        UserError: there is neither or both, or nothing to read.
    """
    if (prompt is None) == (prompts is None):
        raise UserError('give either --prompt "heavy rain" or --prompts FILE with one description a line')
    if prompts is None:
        texts = [prompt or ""]
    else:
        texts = read_lines(prompts)
        if not texts:
            raise UserError(f"{prompts} holds no prompt: write one description a line")
    for text in texts:
        check_prompt(text)
    return texts


def _output_paths(out: Path, clips: list[tuple[str, int]]) -> list[Path]:
    """One file for each prompt and seed.

    Raises:
        FileNotFoundError: the folder does not exist.
        UserError: a file's suffix is none that can be written.
    """
    several_prompts = len({text for text, _ in clips}) > 1
    if out.is_dir():
        paths = [out / file_name(text, seed) for text, seed in clips]
    elif not out.suffix:
        raise FileNotFoundError(
            f"no folder {out}: make it first, or give a file name ending in {', '.join(WRITER_SUFFIXES)}"
        )
    elif several_prompts:
        raise UserError(f"several prompts need a folder for their files, got --out {out}")
    elif len(clips) == 1:
        paths = [out]
    else:
        paths = [out.with_name(f"{out.stem}-{seed}{out.suffix}") for _, seed in clips]
    if len(set(paths)) < len(paths):  # prompts that are alike, or begin alike
        paths = [path.with_name(f"{i:04d}-{path.name}") for i, path in enumerate(paths)]
    for path in paths:
        check_output(path)
    return paths


if __name__ == "__main__":
    run(main)
