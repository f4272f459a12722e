"""Play a prompt without end: `python -m infer.fifo --prompt "heavy rain with distant thunder" --seconds 60`.

prompt, cues -> steering -> queue -> guards -> streaming decode -> limiter -> file or pipe
"""

import inspect
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from data.audio import SAMPLE_RATE, read_audio
from data.cli import run
from infer.fifo.baselines import StreamMethod
from infer.fifo.config import ContextMode, Curve, FifoConfig, Preroll, recommended_focus
from infer.fifo.cues import CueMode
from infer.fifo.guards import GuardConfig
from infer.fifo.state import load_stream, save_stream
from infer.fifo.stream import EndlessStream
from infer.fifo.stream_config import StartMode, StreamConfig
from infer.fifo.timing import StreamTiming, TimingMode
from infer.guidance import GuidanceConfig, check_prompt
from infer.samplers import Method
from infer.stream import (
    FADE_SECONDS,
    PLAYERS,
    STDOUT,
    RawFormat,
    check_output,
    check_seconds,
    cut,
    file_name,
    open_sink,
    play,
)
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
from models.schedule import Focus, Thirds
from models.text_to_audio import TextToAudio

logger = logging.getLogger("infer.fifo")

DEFAULT = FifoConfig()

WITH_A_STATE = {
    *("seconds", "endless", "out", "cue", "cue_mode", "glide_seconds", "save_state", "resume_state", "raw_format"),
    *("model", "device"),
}
"""Options that a stream taken up again may be given; all others are in its state."""


def main(
    prompt: str | None = None,
    seconds: float = 60.0,
    endless: bool = False,
    out: str | None = None,
    seed: int = 0,
    cue: tuple[tuple[float, str], ...] = (),
    cue_mode: CueMode = "bind",
    glide_seconds: float = 5.0,
    method: StreamMethod = "fifo",
    start: StartMode = "noise",
    init_audio: Path | None = None,
    init_in_output: bool = True,
    timing: TimingMode = StreamTiming.mode,
    ending: bool = False,
    piece_seconds: float | None = None,
    negative_prompt: str | None = None,
    guidance_scale: float = 4.0,
    guidance_clean: float | None = None,
    guidance_rescale: float = 0.5,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    sampler: Method = DEFAULT.sampler,
    num_steps: int | None = None,
    micro_steps: int = DEFAULT.micro_steps,
    num_chunks: int = DEFAULT.num_chunks,
    chunk: int = DEFAULT.chunk,
    context: int = DEFAULT.context,
    context_mode: ContextMode = DEFAULT.context_mode,
    context_noise: float = DEFAULT.context_noise,
    sink: int = DEFAULT.sink,
    focus: Focus | Literal["auto"] = DEFAULT.focus,
    factor: float = DEFAULT.factor,
    thirds: Thirds = DEFAULT.thirds,
    curve: Curve = DEFAULT.curve,
    eta: float = DEFAULT.eta,
    preroll: Preroll = DEFAULT.preroll,
    partition_frames: int = 0,
    lookahead: bool = False,
    guards: GuardConfig = GuardConfig(),  # noqa: B008 - frozen
    crossfade_seconds: float = 1.0,
    save_state: Path | None = None,
    resume_state: Path | None = None,
    raw_format: RawFormat = "s16le",
    model: Path = SHIPPED_MODEL,
    device: str = "auto",
) -> None:
    """Turn a prompt into sound without end, in constant memory, written as it is made.

    Args:
        prompt: Description of the sound.
        seconds: Length of the sound, init_audio included; it ends with a short fade.
        endless: Go on until Ctrl-C, or until the reader of standard output goes away.
        out: A .wav, .flac or .ogg file, named after the prompt if left out; or - for raw samples on standard output,
            to be played by `ffplay -f s16le -ar 44100 -ch_layout stereo -nodisp -` or `aplay -f S16_LE -r 44100 -c 2`
            (for f32le: `ffplay -f f32le ...`, `aplay -f FLOAT_LE ...`).
        seed: Same seed and device, same sound.
        cue: Another prompt from a time of the output on, as in --cue 30 "thunderstorm"; may be given again and again.
        cue_mode: A frame follows the text of its own time (bind), the whole queue changes at once (switch), or it
            moves from one text to the next over glide_seconds (glide).
        glide_seconds: How long a glide takes.
        method: fifo, or for comparison: a frame a step without context (plain-fifo) or with context and skipped steps
            (infinite-audio), half a window at a time (slide), clips end to end (concatenate) or crossfaded (crossfade).
        start: The queue grows in from noise, or starts full of a generated clip, noised again (clip).
        init_audio: A sound file that the stream continues.
        init_in_output: Whether the output begins with init_audio, or with what follows it.
        timing: What the model is told about the place in the piece: always the same middle (steady), nothing (null), or
            the truth (true).
        ending: Tell the model the truth near the end, so that it plays an ending.
        piece_seconds: Longest piece to tell the model of, for timing other than null; none: the longest it
            knows well.
        negative_prompt: What the sound should not be.
        guidance_scale: How strongly the prompt pulls; 1 is off and twice as fast.
        guidance_clean: Guidance scale of the cleanest slot of the queue, from which it rises or falls to
            guidance_scale at the noisiest; none: the same.
        guidance_rescale: Share, 0 to 1, by which the growth of the prediction under guidance is undone.
        guidance_interval: Noise times between which the prompt pulls.
        sampler: Second order (dpmpp_2m), first order (ddim), or second order with noise (dpmpp_2m_sde).
        num_steps: Steps from noise to sound, a multiple of num_chunks; sets micro_steps.
        micro_steps: Network calls per chunk of sound (s); a chunk takes micro_steps * num_chunks steps.
        num_chunks: Chunks in the queue (N).
        chunk: Frames of a chunk (c), 23 ms each; best a multiple of the U-Net's time stride.
        context: Finished frames that the network sees in front of the queue (K).
        context_mode: The last frames (sliding), the first ones for ever (frozen), or none.
        context_noise: Noise time of the context, 0 clean.
        sink: Of a sliding context so many frames stay the first ones for ever.
        focus: Third of the noise times that keeps its steps: initial, middle, last; equal; or what infer.importance
            recommended for the model (auto).
        factor: How much thinner the steps outside of the focus are (P).
        thirds: Whether the thirds are equal in noise time or in log-SNR (log_snr).
        curve: Bend the grid (warp), or leave steps of a finer one out, as the paper words it (skip).
        eta: Share of fresh noise in every step, 0 to 1; not for dpmpp_2m.
        preroll: While the queue fills, show the chunks under way (short) or pure noise behind them too (full).
        partition_frames: For a network trained on one level: show it the window in pieces of so many frames.
        lookahead: Let the pieces overlap by half, and take the noisier half of each; set context to half a piece.
        guards: What holds drift back; the pull is on for the method fifo.
        crossfade_seconds: Overlap of two clips with the method crossfade.
        save_state: Where to write the state of the stream when it stops, from which resume_state goes on.
        resume_state: Go on with a saved stream; the output is what follows, and cues count from its start.
        raw_format: Sample format of raw output.
        model: Folder of the model.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    options = locals()
    check_seconds(seconds)
    if save_state is not None and not save_state.parent.is_dir():
        raise FileNotFoundError(f"cannot write {save_state}: the folder {save_state.parent} does not exist")
    if resume_state is not None:
        _check_resume(options)
        out = f"{resume_state.stem}-continued.wav" if out is None else out
    else:
        check_prompt(prompt or "")
        out = file_name(prompt or "", seed) if out is None else out
    _check_out(out, raw_format)
    if resume_state is None:
        fifo = FifoConfig(
            context=context,
            chunk=chunk,
            num_chunks=num_chunks,
            micro_steps=micro_steps if num_steps is None else _micro_steps(num_steps, num_chunks),
            sampler=sampler,
            eta=eta,
            focus=recommended_focus(model) if focus == "auto" else focus,
            factor=factor,
            thirds=thirds,
            curve=curve,
            context_mode=context_mode,
            sink=sink,
            context_noise=context_noise,
            preroll=preroll,
        )
        timing_config = StreamTiming(mode=timing, ending=ending, piece_seconds=piece_seconds)
        config = StreamConfig(
            method=method,
            fifo=fifo,
            guidance=GuidanceConfig(scale=guidance_scale, rescale=guidance_rescale, interval=guidance_interval),
            clean_scale=guidance_clean,
            negative_prompt=negative_prompt,
            timing=timing_config,
            guards=guards,
            start=start,
            partition_frames=partition_frames,
            lookahead=lookahead,
            crossfade_seconds=crossfade_seconds,
            seconds=seconds if timing_config.needs_length and not endless else None,
            seed=seed,
        )
        bundle = TextToAudio.load(model, resolve_device(device))
        sound = None if init_audio is None else torch.from_numpy(read_audio(init_audio))
        stream = EndlessStream(bundle, prompt or "", config, init_audio=sound, init_in_output=init_in_output)
    else:
        stream = load_stream(resume_state, TextToAudio.load(model, resolve_device(device)))
    add_cues(stream, cue, cue_mode, glide_seconds)
    _play(stream, out, raw_format, None if endless else seconds, save_state)


def add_cues(stream: EndlessStream, cues: tuple[tuple[float, str], ...], mode: CueMode, glide_seconds: float) -> None:
    """Add cues that count from what the stream gives out next, and say when they will be heard."""
    begun = stream.seconds
    for seconds, prompt in cues:
        if not 0 <= seconds < float("inf"):
            raise UserError(f'a cue needs a time of at least 0 s, as in --cue 30 "thunderstorm", got {seconds:g}')
        effect = stream.cue(begun + seconds, prompt, mode, glide_seconds)
        heard = effect.begins_seconds - begun, effect.complete_seconds - begun
        logger.info("cue %g s, %r: the change begins at %.2f s and is complete at %.2f s", seconds, prompt, *heard)


def _play(
    stream: EndlessStream, out: str, raw_format: RawFormat, seconds: float | None, save_state: Path | None
) -> None:
    """Write the stream, and its state whatever ended it."""
    pieces = stream
    ends_itself = stream.config.seconds is not None and stream.config.seconds == seconds and not stream.num_samples
    if seconds is not None and not ends_itself:
        num_samples = max(1, round(seconds * SAMPLE_RATE))
        pieces = cut(stream.take(num_samples), num_samples, FADE_SECONDS if save_state is None else 0.0)
    if out == STDOUT:
        sys.stderr.write(f"raw samples, for: {' or: '.join(PLAYERS[raw_format])}\n")
    try:
        with open_sink(out, raw_format) as sink:
            play(pieces, sink, "standard output" if out == STDOUT else out, seconds)
    finally:
        if save_state is not None:
            _save(stream, save_state)


def _save(stream: EndlessStream, path: Path) -> None:
    try:
        save_stream(path, stream)
        sys.stderr.write(f"the stream goes on with --resume_state {path}\n")
    except ValueError as error:
        logger.warning("no state was saved: %s", error)


def _check_resume(options: dict[str, Any]) -> None:
    parameters = inspect.signature(main).parameters
    known = [name for name, parameter in parameters.items() if options[name] != parameter.default]
    wrong = [name for name in known if name not in WITH_A_STATE]
    if wrong:
        raise UserError(f"a resumed stream keeps its own {', '.join(wrong)}; another prompt is --cue 0 TEXT")


def _check_out(out: str, raw_format: RawFormat) -> None:
    if out != STDOUT:
        check_output(Path(out))
    elif os.isatty(1):
        raise UserError(f"standard output is a terminal, pipe it: ... --out - | {PLAYERS[raw_format][0]}")


def _micro_steps(num_steps: int, num_chunks: int) -> int:
    if num_steps < 1 or num_steps % num_chunks:
        raise UserError(f"num_steps must be a multiple of num_chunks = {num_chunks}, got {num_steps}")
    return num_steps // num_chunks


def collect_cues(arguments: list[str]) -> list[str]:
    """Turn every `--cue SECONDS PROMPT` of a command line into one option that holds them all."""
    rest: list[str] = []
    cues: list[tuple[float, str]] = []
    index = 0
    while index < len(arguments):
        following = arguments[index + 1 : index + 3]
        if arguments[index] == "--cue" and len(following) == 2 and _is_number(following[0]):
            cues.append((float(following[0]), following[1]))
            index += 3
        else:
            rest.append(arguments[index])
            index += 1
    return [*rest, f"--cue={json.dumps(cues)}"] if cues else rest


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run(main, argv=collect_cues(sys.argv[1:]))
