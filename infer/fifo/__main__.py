"""Play a prompt without end: `python -m infer.fifo --prompt "heavy rain with distant thunder" --seconds 60`.

prompt -> conditioning -> guided denoiser -> queue -> streaming decode -> limiter -> file or pipe
"""

from pathlib import Path
from typing import Literal

from data.audio import SAMPLE_RATE
from data.cli import run
from infer.fifo.config import ContextMode, FifoConfig, Preroll
from infer.fifo.queue import Fifo
from infer.guidance import GuidanceConfig, check_prompt, prompt_denoiser
from infer.samplers import Method, make_generators
from infer.stream import STDOUT, RawFormat, check_output, check_seconds, cut, decode_stream, file_name, open_sink, play
from models.device import resolve_device
from models.schedule import Focus
from models.text_to_audio import TextToAudio

Timing = Literal["null", "steady"]

DEFAULT = FifoConfig()


def main(
    prompt: str,
    seconds: float = 60.0,
    endless: bool = False,
    out: str | None = None,
    seed: int = 0,
    negative_prompt: str | None = None,
    guidance_scale: float = 4.0,
    guidance_rescale: float = 0.5,
    timing: Timing = "null",
    sampler: Method = DEFAULT.sampler,
    num_steps: int | None = None,
    micro_steps: int = DEFAULT.micro_steps,
    num_chunks: int = DEFAULT.num_chunks,
    chunk: int = DEFAULT.chunk,
    context: int = DEFAULT.context,
    context_mode: ContextMode = DEFAULT.context_mode,
    context_noise: float = DEFAULT.context_noise,
    focus: Focus = DEFAULT.focus,
    factor: float = DEFAULT.factor,
    eta: float = DEFAULT.eta,
    preroll: Preroll = DEFAULT.preroll,
    raw_format: RawFormat = "s16le",
    model: Path = Path("checkpoints/demo"),
    device: str = "auto",
) -> None:
    """Turn a prompt into sound without end, in constant memory, written as it is made.

    Args:
        prompt: Description of the sound.
        seconds: Length of the sound; it ends with a short fade.
        endless: Go on until Ctrl-C, or until the reader of standard output goes away.
        out: A .wav, .flac or .ogg file, named after the prompt if left out; or - for raw samples on standard output,
            to be played by `ffplay -f s16le -ar 44100 -ch_layout stereo -nodisp -` or `aplay -f S16_LE -r 44100 -c 2`
            (for f32le: `ffplay -f f32le ...`, `aplay -f FLOAT_LE ...`).
        seed: Same seed and device, same sound.
        negative_prompt: What the sound should not be.
        guidance_scale: How strongly the prompt pulls; 1 is off and twice as fast.
        guidance_rescale: Share, 0 to 1, by which the growth of the prediction under guidance is undone.
        timing: What the model is told about the position in the piece: nothing (null), or always the middle (steady).
        sampler: Second order (dpmpp_2m), first order (ddim), or second order with noise (dpmpp_2m_sde).
        num_steps: Steps from noise to sound, a multiple of num_chunks; sets micro_steps.
        micro_steps: Network calls per chunk of sound (s); a chunk takes micro_steps * num_chunks steps.
        num_chunks: Chunks in the queue (N).
        chunk: Frames of a chunk (c), 23 ms each; best a multiple of the U-Net's time stride.
        context: Finished frames that the network sees in front of the queue (K).
        context_mode: The last frames (sliding), the first ones for ever (frozen), or none.
        context_noise: Noise time of the context, 0 clean.
        focus: Third of the noise times that keeps its steps: initial, middle, last; or equal.
        factor: How much thinner the steps outside of the focus are (P).
        eta: Share of fresh noise in every step, 0 to 1; not for dpmpp_2m.
        preroll: While the queue fills, show the chunks under way (short) or pure noise behind them too (full).
        raw_format: Sample format of raw output.
        model: Folder of the model.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    check_prompt(prompt)
    check_seconds(seconds)
    out = file_name(prompt, seed) if out is None else out
    if out != STDOUT:
        check_output(Path(out))
    config = FifoConfig(
        context=context,
        chunk=chunk,
        num_chunks=num_chunks,
        micro_steps=micro_steps if num_steps is None else _micro_steps(num_steps, num_chunks),
        sampler=sampler,
        eta=eta,
        focus=focus,
        factor=factor,
        context_mode=context_mode,
        context_noise=context_noise,
        preroll=preroll,
    )
    guidance = GuidanceConfig(scale=guidance_scale, rescale=guidance_rescale)
    bundle = TextToAudio.load(model, resolve_device(device))
    start, total = _timing(timing, bundle)
    stream = Fifo(
        prompt_denoiser(
            bundle, [prompt], guidance, negative_prompt=negative_prompt, seconds_start=start, seconds_total=total
        ),
        config,
        channels=bundle.unet.config.latent_channels,
        generators=make_generators(seed, 1),
        device=bundle.device,
    )
    pieces = decode_stream(stream, bundle.vae)
    if not endless:
        pieces = cut(pieces, max(1, round(seconds * SAMPLE_RATE)))
    with open_sink(out, raw_format) as sink:
        play(pieces, sink, "standard output" if out == STDOUT else out, None if endless else seconds)


def _micro_steps(num_steps: int, num_chunks: int) -> int:
    if num_steps < 1 or num_steps % num_chunks:
        raise ValueError(f"num_steps must be a multiple of num_chunks = {num_chunks}, got {num_steps}")
    return num_steps // num_chunks


def _timing(timing: Timing, model: TextToAudio) -> tuple[float | None, float | None]:
    """Seconds_start and seconds_total of an endless stream."""
    longest = model.conditioner.config.timing.max_seconds
    return (None, None) if timing == "null" else (longest / 4, longest * 3 / 4)


if __name__ == "__main__":
    run(main)
