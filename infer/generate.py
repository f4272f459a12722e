"""Prompts to clips of a fixed length: `python -m infer.generate --prompt "..." --seconds 6`.

Each sample is denoised on its own grid of latents, as many as its length needs, and cut at `seconds`, which is also
what the model is told as seconds_total. Sample k of a prompt has the seed `seed + k`, whatever the batch it is made in.
With `--init_audio` a clip begins as a sound of the user's: a variation of it, or a span of it made anew.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import AudioFile, read_audio
from data.audio_writer import WRITER_SUFFIXES
from data.cli import run
from data.text_files import read_lines
from infer.decoding import FADE_SECONDS, end_at, finite_audio
from infer.edit import Edit, check_strength, make_edit, read_span
from infer.fifo.config import with_known_focus
from infer.guidance import GuidanceConfig, prompt_denoiser
from infer.hosts.host import Host
from infer.hosts.load import load_model
from infer.limiter import limit
from infer.outputs import check_output, check_seconds, check_seed, file_name
from infer.playback import FileSink, LevelMeter
from infer.samplers import SamplingConfig, draw_noise, make_generators, sample
from models.checkpoint import SHIPPED_MODEL
from models.device import Precision, resolve_device
from models.errors import UserError
from models.texts import check_prompt

MAX_CLIPS = 100_000
SHORTEST_SECONDS = 0.05
"""Shortest clip (s), two latent frames of the shipped model."""


@torch.no_grad()
def generate(
    model: Host,
    prompts: list[str],
    *,
    seconds: float,
    seeds: list[int],
    guidance: GuidanceConfig = GuidanceConfig(),  # noqa: B008 - frozen
    seconds_total: list[float] | None = None,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
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
    num_samples = max(1, round(seconds * model.sample_rate))
    num_frames = math.ceil(num_samples / model.hop_length)
    totals = seconds_total or [seconds] * len(prompts)
    is_told = model.max_seconds is not None
    denoiser = prompt_denoiser(
        model, prompts, guidance, [(0.0, total) if is_told else (None, None) for total in totals]
    )
    generators = [make_generators(seed, 1)[0] for seed in seeds]
    noise = draw_noise(generators, model.latent_channels, num_frames, model.device)
    levels = model.noise_time(sampling.grid(num_steps))
    if edit is None:
        latents = sample(denoiser, noise, levels, sampling.sampler, sampling.eta, generators, on_step)
    else:
        start, levels = edit.noised(noise), edit.strength * levels
        made = sample(edit.wrap(denoiser), start, levels, sampling.sampler, sampling.eta, generators, on_step)
        latents = edit.kept(made)
    decoded = finite_audio(model.decode(latents))
    audio = torch.stack([limit(clip) for clip in decoded])  # (batch, 2, samples), up to a frame too long
    if edit is not None:
        audio = edit.mixed(audio, model.hop_length)
    return end_at(num_samples, 0, audio, round(FADE_SECONDS * model.sample_rate))


def window_seconds(model: Host) -> float:
    """Return the length of the longest clip that ordinary sampling makes."""
    return model.window_frames * model.hop_length / model.sample_rate


def check_length(model: Host, seconds: float) -> None:
    """Refuse a clip that `model` cannot make at once."""
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
    seconds: float | None = None,
    init_audio: Path | None = None,
    strength: float | None = None,
    inpaint: str | None = None,
    num_samples: int = 1,
    batch_size: int = 4,
    num_steps: int = 32,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
    guidance: GuidanceConfig = GuidanceConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    out: Path = Path(),
    overwrite: bool = False,
    model: str = str(SHIPPED_MODEL),
    device: str = "auto",
    precision: Precision = "float32",
    compile: bool = False,
) -> None:
    """Generate clips of a fixed length from a prompt, from a file of prompts, or from a sound and a prompt.

    Args:
        prompt: Description of the sound.
        prompts: A text file with one description a line, in place of prompt.
        seconds: Length of a clip; none: that of init_audio, at most the window the model was trained on.
        init_audio: A sound file to begin from; what lies behind the window is left out.
        strength: How far from init_audio to go, above 0 to 1; none: 0.7, or 1 with inpaint.
        inpaint: Start and end (s) of the part of init_audio to make anew, as in --inpaint 1.5,3; the rest stays.
        num_samples: How many to make of each prompt; sample k has the seed seed + k.
        batch_size: How many to make at once.
        num_steps: Network calls per clip.
        sampling: Sampler and time grid.
        guidance: How strongly the prompt acts.
        seed: Same seed and device, same sound.
        out: A folder, where files are named after prompt and seed; or a .wav, .flac or .ogg file, to whose name the
            seed is added when there are several.
        overwrite: Whether existing files may be replaced.
        model: Folder of the model.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Number format in which the U-Net computes (autocast); weights and decoding stay float32.
        compile: Compile the U-Net: faster calls after a start of up to minutes.
    """
    texts = _prompts(prompt, prompts)
    _check_numbers(seconds, num_samples, batch_size, num_steps, seed, strength)
    sampling = with_known_focus(sampling, Path(model))
    sampling.grid(num_steps)
    span = None if inpaint is None else read_span(inpaint)
    if init_audio is None and (strength is not None or inpaint is not None):
        raise UserError("strength and inpaint change a sound: give it with --init_audio FILE")
    if len(texts) * num_samples > MAX_CLIPS:
        raise UserError(f"{len(texts) * num_samples} clips are more than {MAX_CLIPS}: take fewer prompts or samples")
    clips = [(text, seed + k) for text in texts for k in range(num_samples)]
    paths = _output_paths(out, clips, overwrite)
    if init_audio is not None:
        _check_sound(init_audio, paths)
    bundle = load_model(model, resolve_device(device), precision, compile)
    longest = window_seconds(bundle)
    audio = None
    if init_audio is not None:  # what lies behind the window is not read
        audio = torch.from_numpy(read_audio(init_audio, num_samples=math.ceil(longest * bundle.sample_rate)))
    if seconds is None:
        seconds = longest if audio is None else min(longest, audio.shape[-1] / bundle.sample_rate)
    check_length(bundle, seconds)
    edit = None if audio is None else make_edit(bundle, audio, seconds, span, strength)
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
                sampling=sampling,
                num_steps=num_steps,
                edit=edit,
                on_step=lambda _: bar.update(),
            )
            for path, clip in zip(paths[first : first + batch_size], sounds, strict=True):
                _write(path, clip, bundle.sample_rate, overwrite)
                bar.write(str(path))


def _write(path: Path, clip: Tensor, sample_rate: int, overwrite: bool) -> None:
    meter = LevelMeter()
    meter.push(clip)
    with FileSink(path, sample_rate, overwrite=overwrite) as sink:
        sink.write(clip)
    meter.report(path.name)


def _check_numbers(
    seconds: float | None, num_samples: int, batch_size: int, num_steps: int, seed: int, strength: float | None
) -> None:
    if seconds is not None:
        check_seconds(seconds)
        if seconds < SHORTEST_SECONDS:
            raise UserError(f"seconds must be at least {SHORTEST_SECONDS:g}, got {seconds:g}")
    if num_samples < 1 or batch_size < 1 or num_steps < 1:
        raise UserError(
            f"num_samples, batch_size and num_steps must be at least 1, got {num_samples}, {batch_size} and {num_steps}"
        )
    if strength is not None:
        check_strength(strength)
    check_seed(seed, num_samples)


def _check_sound(path: Path, outputs: list[Path]) -> None:
    """Refuse a sound to begin from that is too short, or that would be written over."""
    with AudioFile(path) as file:
        seconds = file.seconds
    if seconds < SHORTEST_SECONDS:
        raise UserError(f"{path} is too short to begin from: {seconds:g} s, needs at least {SHORTEST_SECONDS:g} s")
    if path.resolve() in {output.resolve() for output in outputs}:
        raise UserError(f"{path} would be written over itself, choose another --out")


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


def _output_paths(out: Path, clips: list[tuple[str, int]], overwrite: bool) -> list[Path]:
    """One file for each prompt and seed.

    Raises:
        FileNotFoundError: the folder does not exist.
        UserError: a file's suffix is none that can be written, or it exists already.
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
        check_output(path, overwrite=overwrite)
    return paths


def join_span(arguments: list[str]) -> list[str]:
    """Join a span that was typed as two words, as in `--inpaint [1.5, 3]` or `--inpaint 1.5 3`, to one."""
    joined = list(arguments)
    for index in range(len(joined) - 2):
        if joined[index] == "--inpaint" and not joined[index + 2].startswith("--"):
            joined[index + 1 : index + 3] = [f"{joined[index + 1]} {joined[index + 2]}"]
            break
    return joined


if __name__ == "__main__":
    run(main, argv=join_span(sys.argv[1:]))
