"""Play a prompt without end: `python -m infer.fifo --prompt "heavy rain with distant thunder" --seconds 60`.

prompt, cues -> rows of the network (`infer.guidance`) -> `queue` -> streamed decoding -> limiter -> file or pipe
"""

import inspect
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.audio import SAMPLE_RATE, AudioFile, read_audio
from data.cli import run
from infer.fifo.config import STREAM_GUIDANCE, QueueOptions, StreamConfig, trained_queue_notice, with_known_focus
from infer.fifo.cues import CueConfig
from infer.fifo.guard import GuardConfig
from infer.fifo.methods import Method
from infer.fifo.state import check_state_file, load_stream, save_stream
from infer.fifo.stream import EndlessStream
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from infer.hosts.load import default_config, load_model
from infer.outputs import check_output, check_seconds, check_seed, file_name
from infer.playback import PLAYERS, STDOUT, RawFormat, open_sink, play
from infer.samplers import SamplingConfig
from models.checkpoint import SHIPPED_MODEL
from models.device import Precision, resolve_device, spare_threads
from models.errors import UserError
from models.text_to_audio import TextToAudio
from models.texts import Spoken, Text, check_prompt

logger = logging.getLogger("infer.fifo")

WITH_A_STATE = {
    *("seconds", "endless", "out", "overwrite", "cue", "cues", "playback", "save_state", "resume_state"),
    *("model", "device", "precision", "compile"),
}
"""Options that a stream taken up again may be given; all others are in its state."""
LEAST_INIT_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class PlaybackConfig:
    """What the output holds."""

    raw_format: RawFormat = "s16le"
    """Sample format of raw output (--out -)."""
    init_audio: bool = True
    """Whether the output begins with init_audio, or with what follows it."""


def main(
    prompt: str | None = None,
    seconds: float = 60.0,
    endless: bool = False,
    out: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    cue: tuple[tuple[float, str], ...] = (),
    cues: CueConfig = CueConfig(),  # noqa: B008 - frozen, as all groups below
    content: str | None = None,
    init_audio: Path | None = None,
    playback: PlaybackConfig = PlaybackConfig(),
    method: Method = "fifo",
    queue: QueueOptions = QueueOptions(),  # noqa: B008
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008
    guidance: GuidanceConfig = STREAM_GUIDANCE,
    timing: StreamTiming = StreamTiming(),  # noqa: B008
    guard: GuardConfig = GuardConfig(),  # noqa: B008
    save_state: Path | None = None,
    resume_state: Path | None = None,
    model: str = str(SHIPPED_MODEL),
    device: str = "auto",
    precision: Precision = "float32",
    compile: bool = False,
) -> None:
    """Turn a prompt into sound without end, in constant memory, written as it is made.

    Args:
        prompt: Description of the sound.
        seconds: Length of the sound, init_audio included; it ends with a short fade.
        endless: Go on until Ctrl-C, or until the reader of standard output goes away.
        out: A .wav, .flac or .ogg file, named after the prompt if left out; or - for raw samples on standard output,
            to be played by `ffplay -f s16le -ar 44100 -ch_layout stereo -nodisp -` or `aplay -f S16_LE -r 44100 -c 2`.
        overwrite: Whether existing files (out, save_state) may be replaced.
        seed: Same seed and device, same sound.
        cue: Another prompt from a time of the output on, as in --cue 30 "thunderstorm"; may be given again and again.
        cues: How a text gives way to the next.
        content: Words to say, for models that speak (VoiceLDM). A cue changes them behind a bar, as in
            --cue 10 "a cathedral | and so it ends", and leaves them as they are without one.
        init_audio: A sound file that the stream continues.
        playback: What the output holds.
        method: As the model was trained to be played (fifo); InfiniteAudio's way, a frame a step with skipped steps,
            see sampling.focus (infinite-audio); or FIFO-Diffusion's, with latent partitioning and lookahead
            (fifo-diffusion).
        queue: The queue, where it is not the one that the model was trained for.
        sampling: Sampler and time grid.
        guidance: How strongly the prompt acts.
        timing: What the model is told about the place in the piece.
        guard: What holds drift back.
        save_state: Where to write the state of the stream when it stops, from which resume_state goes on.
        resume_state: Go on with a saved stream; the output is what follows, and cues count from its start.
        model: A model's folder; for published models a pipeline's folder as diffusers writes it, or its name on the
            Hugging Face hub, as in --model cvssp/audioldm-s-full-v2.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Number format in which the U-Net computes (autocast); weights and decoding stay float32.
        compile: Compile the U-Net: faster calls after a start of up to minutes.
    """
    options = locals()
    length = None if endless else seconds
    check_seconds(seconds)
    check_seed(seed)
    check_cues(cue, length)
    if resume_state is not None:
        _check_resume(options)
        out = f"{resume_state.stem}-continued.wav" if out is None else out
    else:
        check_prompt(prompt or "")
        out = file_name(prompt or "", seed) if out is None else out
    _check_out(out, playback.raw_format, overwrite, length)
    if save_state is not None:
        check_state_file(save_state, overwrite=overwrite)
    if init_audio is not None:
        _check_init_audio(init_audio, out, length if playback.init_audio else None)
    sampling = with_known_focus(sampling, Path(model))
    bundle = load_model(model, resolve_device(device), precision, compile)
    if isinstance(bundle, TextToAudio):
        spare_threads(bundle.unet, bundle.device)
    if resume_state is None:
        config = StreamConfig(
            method=method,
            queue=queue,
            sampling=sampling,
            guidance=guidance,
            timing=timing,
            guard=guard,
            seconds=length if timing.needs_length else None,
        )
        notice = trained_queue_notice(config, bundle)
        if notice is not None:
            logger.warning(notice)
        sound = None if init_audio is None else torch.from_numpy(read_audio(init_audio))
        in_output = playback.init_audio
        stream = EndlessStream(
            bundle, text_of(prompt or "", content), config, seeds=seed, init_audio=sound, init_in_output=in_output
        )
    else:
        stream = load_stream(resume_state, bundle)
    if save_state is not None:
        check_state_file(save_state, stream, overwrite=overwrite)
    add_cues(stream, cue, cues, content)
    write(stream, out, length, save_state, playback.raw_format, overwrite=overwrite)


def add_cues(
    stream: EndlessStream, cue: Sequence[tuple[float, str]], config: CueConfig, content: str | None = None
) -> None:
    """Add cues that count from what the stream gives out next, and say when they will be heard."""
    begun = stream.seconds
    for seconds, prompt in sorted(cue):
        text = text_of(prompt, content)
        content = text.content if isinstance(text, Spoken) else None
        effect = stream.cue(begun + seconds, text, config.mode, config.glide_seconds)
        heard = effect.begins_seconds - begun, effect.complete_seconds - begun
        logger.info("cue %g s, %r: the change begins at %.2f s and is complete at %.2f s", seconds, prompt, *heard)


def write(
    stream: EndlessStream,
    out: str,
    seconds: float | None,
    save_state: Path | None,
    raw_format: RawFormat,
    *,
    overwrite: bool,
) -> None:
    """Write the stream, and its state whatever ended it. A sound that may go on is cut without a fade."""
    rate = stream.model.sample_rate
    pieces = iter(stream)
    if seconds is not None and save_state is not None:
        pieces = stream.take(max(1, round(seconds * rate)))
    elif seconds is not None:
        stream.end_in(seconds)
    if out == STDOUT:
        players = " or: ".join(player.format(rate=rate) for player in PLAYERS[raw_format])
        sys.stderr.write(f"raw samples, for: {players}\n")
    try:
        with open_sink(out, rate, raw_format, overwrite=overwrite) as sink:
            play((piece[0] for piece in pieces), sink, "standard output" if out == STDOUT else out, rate, seconds)
    finally:
        if save_state is not None:
            _save(stream, save_state)


def text_of(prompt: str, content: str | None) -> Text:
    """Join a description with words to say: those behind its bar, or those that were said before."""
    description, bar, words = prompt.partition("|")
    if content is None and not bar:
        return prompt
    spoken = Spoken(description.strip(), words.strip() if bar else content or "")
    check_prompt(spoken.description)
    check_prompt(spoken.content)
    return spoken


def _save(stream: EndlessStream, path: Path) -> None:
    try:
        save_stream(path, stream)
        sys.stderr.write(f"the stream goes on with --resume_state {path}\n")
    except UserError as error:
        logger.warning("no state was saved: %s", error)


def check_cues(cues: Sequence[tuple[float, str]], seconds: float | None) -> None:
    """Refuse cues without a text, or at times that the output does not have."""
    for time, text in cues:
        check_prompt(text)
        if not 0 <= time < float("inf"):
            raise UserError(f'a cue needs a time of at least 0 s, as in --cue 30 "thunderstorm", got {time:g}')
        if seconds is not None and time >= seconds:
            raise UserError(
                f"the cue {text!r} at {time:g} s comes after the end of the {seconds:g} s: ask for more seconds"
            )


def _check_init_audio(path: Path, out: str, seconds: float | None) -> None:
    with AudioFile(path) as file:
        length = file.seconds
    if length < LEAST_INIT_SECONDS:
        raise UserError(f"{path} is too short to continue: {length:g} s, needs at least {LEAST_INIT_SECONDS:g} s")
    if seconds is not None and seconds <= length:
        raise UserError(
            f"{path} is {length:.1f} s long, and --seconds, which includes it, is {seconds:g}: ask for more, or "
            "leave it out of the output with --playback.init_audio false"
        )
    if out != STDOUT and Path(out).resolve() == path.resolve():
        raise UserError(f"{path} would be written over itself, choose another --out")


def _check_resume(options: dict[str, Any]) -> None:
    parameters = inspect.signature(main).parameters
    known = [name for name, parameter in parameters.items() if options[name] != parameter.default]
    wrong = [name for name in known if name not in WITH_A_STATE]
    if wrong:
        raise UserError(f"a resumed stream keeps its own {', '.join(wrong)}; another prompt is --cue 0 TEXT")


def _check_out(out: str, raw_format: RawFormat, overwrite: bool, seconds: float | None) -> None:
    if out != STDOUT:
        num_bytes = 4 * SAMPLE_RATE * (seconds or 1) if out.lower().endswith(".wav") else 2**20
        check_output(Path(out), overwrite=overwrite, num_bytes=round(num_bytes))
    elif os.isatty(1):
        player = PLAYERS[raw_format][0].format(rate=SAMPLE_RATE)
        raise UserError(f"standard output is a terminal, pipe it: ... --out - | {player}")


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
    run(main, default_config(sys.argv[1:]), collect_cues(sys.argv[1:]), ["prompt"], prog="python -m infer.fifo")
