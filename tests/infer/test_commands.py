"""`infer.fifo` and `infer.generate` end to end on a tiny random model: sound, errors, seeds, interruption, memory."""

import dataclasses
import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import infer.fifo.__main__ as fifo_command
from data.cli import run
from infer import generate as generate_command
from infer.decoding import Decoding
from infer.fifo import EndlessStream, Fifo, QueueOptions, StreamConfig
from infer.fifo.config import STREAM_GUIDANCE
from infer.fifo.guard import GuardConfig
from infer.fifo.state import save_stream
from infer.fifo.timing import StreamTiming
from infer.generate import generate, window_seconds
from infer.guidance import GuidanceConfig, prompt_denoiser
from infer.playback import play
from infer.samplers import make_generators
from models.queue import QueueConfig
from models.schedule import time_grid
from models.text_to_audio import TextToAudio

PROMPT = "heavy rain"
SHAPE = {"num_chunks": 3, "chunk_frames": 8, "context_frames": 8, "steps_per_shift": 1}
QUEUE = [word for name, value in SHAPE.items() for word in (f"--queue.{name}", str(value))]


def play_fifo(folder: Path, out: Path | str, *options: str) -> None:
    run(fifo_command.main, argv=["--prompt", PROMPT, "--model", str(folder), "--out", str(out), *QUEUE, *options])


def make_clips(folder: Path, out: Path, *options: str) -> None:
    argv = ["--prompt", PROMPT, "--model", str(folder), "--out", str(out), "--seconds", "0.5", "--num_steps", "3"]
    run(generate_command.main, argv=[*argv, *options])


def read(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path)
    assert rate == 44_100
    return audio


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_fifo_writes_stereo_of_the_asked_length(tiny_folder: Path, tmp_path: Path, suffix: str):
    path = tmp_path / f"rain{suffix}"
    play_fifo(tiny_folder, path, "--seconds", "1.25")
    audio = read(path)
    assert audio.shape == (55_125, 2)
    assert np.abs(audio).max() > 1e-3
    assert np.abs(audio[-1]).max() < 0.01


def test_fifo_names_its_file_after_the_prompt(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--prompt", "Heavy rain!", "--model", str(tiny_folder), *QUEUE, "--seconds", "0.2", "--seed", "5"]
    run(fifo_command.main, argv=argv)
    assert [path.name for path in tmp_path.iterdir()] == ["heavy-rain-5.wav"]


def test_same_seed_same_sound_and_a_longer_run_begins_alike(tiny_folder: Path, tmp_path: Path):
    names = {"a": ("0", "1"), "b": ("0", "1"), "other": ("1", "1"), "longer": ("0", "2")}
    for name, (seed, seconds) in names.items():
        play_fifo(tiny_folder, tmp_path / f"{name}.wav", "--seed", seed, "--seconds", seconds)
    a, b, other, longer = (read(tmp_path / f"{name}.wav") for name in names)
    assert np.array_equal(a, b)
    assert not np.allclose(a, other, atol=1e-3)
    assert np.array_equal(a[:-882], longer[: len(a) - 882])  # but for the fade


def test_prompts_and_guidance_change_the_sound(tiny_folder: Path, tmp_path: Path):
    variants = {
        "plain": [],
        "prompt": ["--prompt", "a clock ticks"],
        "scale": ["--guidance.scale", "1"],
        "negative": ["--guidance.negative_prompt", "a clock ticks"],
        "timing": ["--timing.mode", "null"],
        "focus": ["--sampling.focus", "last", "--queue.steps_per_shift", "2"],
        "infinite-audio": ["--method", "infinite-audio"],
        "fifo-diffusion": ["--method", "fifo-diffusion"],
    }
    sounds = {}
    for name, options in variants.items():
        play_fifo(tiny_folder, tmp_path / f"{name}.wav", "--seconds", "0.5", *options)
        sounds[name] = read(tmp_path / f"{name}.wav")
    for name in list(variants)[1:]:
        assert not np.allclose(sounds[name], sounds["plain"], atol=1e-3), name


def test_generate_writes_each_seed_whatever_the_batch(tiny_folder: Path, tmp_path: Path):
    for name, batch in (("together", "3"), ("apart", "2")):
        (tmp_path / name).mkdir()
        make_clips(tiny_folder, tmp_path / name, "--num_samples", "3", "--seed", "7", "--batch_size", batch)
    make_clips(tiny_folder, tmp_path / "one.wav", "--seed", "8")
    names = [f"heavy-rain-{seed}.wav" for seed in (7, 8, 9)]
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == names
    together, apart = ([read(tmp_path / folder / name) for name in names] for folder in ("together", "apart"))
    assert all(len(audio) == 22_050 for audio in together)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, apart, strict=True))
    assert np.allclose(together[1], read(tmp_path / "one.wav"), atol=1e-4)
    assert not np.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", "0.5"), ("dpmpp_2m_sde", "1")])
def test_generate_with_every_sampler(tiny_folder: Path, tmp_path: Path, sampler: str, eta: str):
    make_clips(
        tiny_folder, tmp_path / "a.flac", "--sampling.sampler", sampler, "--sampling.eta", eta, "--num_samples", "2"
    )
    assert len(read(tmp_path / "a-0.flac")) == len(read(tmp_path / "a-1.flac")) == 22_050


def test_one_chunk_fifo_is_generate(tiny_model: TextToAudio):
    """The two commands share one sampler: a queue of one chunk, decoded as a stream, is the clip."""
    guidance = GuidanceConfig(scale=3.0, rescale=0.5)
    seconds = 16 * 1024 / 44_100
    clip = generate(tiny_model, [PROMPT], seconds=seconds, seeds=[3], guidance=guidance, num_steps=4)[0]
    denoiser = prompt_denoiser(tiny_model, [PROMPT], guidance, [(0.0, seconds)])
    queue = QueueConfig(context_frames=0, chunk_frames=16, num_chunks=1, steps_per_shift=4)
    latents = next(Fifo(denoiser, queue, time_grid(4), channels=4, generators=make_generators(3, 1)))
    decoding = Decoding(tiny_model)
    streamed = torch.cat((decoding.push(latents), decoding.finish()), dim=-1)[0]
    assert torch.allclose(clip[:, :-882], streamed[:, :-882], atol=1e-5)


def test_a_clip_longer_than_the_training_window_is_refused(
    tiny_model: TextToAudio, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    longest = 4096 * tiny_model.vae.hop_length / 44_100
    with pytest.raises(ValueError, match=r"seconds must be at most .*, the window .* got 1000; .* infer.fifo"):
        generate(tiny_model, [PROMPT], seconds=1000, seeds=[0], guidance=GuidanceConfig())
    assert window_seconds(tiny_model) == pytest.approx(longest)
    with pytest.raises(SystemExit):
        make_clips(tiny_folder, tmp_path / "a.wav", "--seconds", "1000")
    (line,) = capsys.readouterr().err.splitlines()  # no progress bar before it
    assert line.startswith("error: seconds must be at most")


def test_user_errors_are_one_line_and_exit_code_2(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_folder, damaged)
    config = damaged / "config.json"
    config.write_text(config.read_text().replace('"time_width": 16', '"time_width": 24'))
    rain = ["--prompt", PROMPT, "--model", str(tiny_folder)]
    out = ["--out", str(tmp_path / "a.wav")]
    cases = {
        "no model in": ["--prompt", PROMPT, "--model", str(tmp_path / "nothing"), *out],
        "do not fit the configuration": ["--prompt", PROMPT, "--model", str(damaged), *out],
        "prompt is empty": ["--prompt", " ", "--model", str(tiny_folder), *out],
        "above 0, got 0": [*rain, *out, "--seconds", "0"],
        "above 0, got -3": [*rain, *out, "--seconds=-3"],
        "seconds": [*rain, *out, "--seconds", "nan"],
        "does not exist": [*rain, "--out", str(tmp_path / "no" / "a.wav")],
        "expected a name ending in": [*rain, "--out", str(tmp_path / "a.mp3")],
        "device must be": [*rain, *out, "--device", "gpu"],
        "guidance scale must lie": [*rain, *out, "--guidance.scale=-1"],
        "sampl": [*rain, *out, "--sampling.sampler", "euler"],
        "adds no noise": [*rain, *out, "--sampling.eta", "0.5"],
        "seed must lie": [*rain, *out, "--seed", "100000000000000000000"],
        "is no character": ["--prompt", "caf\udce9", "--model", str(tiny_folder), *out],
        "factor must lie": [*rain, *out, "--sampling.factor", "0.5"],
    }
    for command in (fifo_command.main, generate_command.main):
        for message, argv in cases.items():
            with pytest.raises(SystemExit) as stop:
                run(command, argv=argv)
            error = capsys.readouterr().err
            assert stop.value.code == 2, (message, error)
            assert message in error, (message, error)
            assert len(error.strip().splitlines()) == 1, error
            assert error.startswith("error: ")
    assert not list(tmp_path.glob("*.wav"))


def refusal(capsys: pytest.CaptureFixture[str], command, *arguments: str) -> str:
    """Run a command that must be refused, and return its one line."""
    with pytest.raises(SystemExit) as stop:
        run(command, argv=list(arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queue.num_chunks", "1000000"], "more than 16 times"),
        (["--queue.num_chunks", "0"], "queue.num_chunks must be"),
        (["--queue.steps_per_shift", "1000000"], "more than 10000"),
        (["--cues.glide_seconds=-3"], "glide_seconds must lie above 0"),
        (["--seconds", "3", '--cue=[[50, "wind"]]'], "the cue 'wind' at 50 s comes after the end of the 3 s"),
        (['--cue=[[-1, "wind"]]'], "at least 0 s"),
        (['--cue=[[1, " "]]'], "prompt is empty"),
        (["--guard.average_seconds=-1"], "guard.average_seconds must lie above 0"),
        (["--timing.piece_seconds=-1"], "piece_seconds must lie"),
        (["--timing.ending", "--endless"], "need the length"),
        (["--seconds", "1e12"], "at most 1e+07"),
        (["--save_state", "/"], "is a folder"),
        (["--save_state", "/no/such/a.pt"], "does not exist"),
    ],
)
def test_every_number_has_bounds(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    rain = ["--prompt", PROMPT, "--model", str(tiny_folder), "--out", str(tmp_path / "a.wav")]
    assert message in refusal(capsys, fifo_command.main, *rain, *options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, state = tmp_path / "a.wav", tmp_path / "a.pt"
    rain = ["--prompt", PROMPT, "--model", str(tiny_folder), "--out", str(out), "--seconds", "0.2"]
    for path in (out, state):
        path.write_bytes(b"mine")
    for command in (fifo_command.main, generate_command.main):
        assert "a.wav exists already" in refusal(capsys, command, *rain)
        assert out.read_bytes() == b"mine"
    free = ["--prompt", PROMPT, "--model", str(tiny_folder), "--out", str(tmp_path / "b.wav"), "--seconds", "0.2"]
    assert "a.pt exists already" in refusal(capsys, fifo_command.main, *free, "--save_state", str(state))
    assert state.read_bytes() == b"mine"
    run(generate_command.main, argv=[*rain, "--num_steps", "2", "--overwrite"])
    assert len(read(out)) == 8820
    run(fifo_command.main, argv=[*rain, *QUEUE, "--seconds", "0.4", "--save_state", str(state), "--overwrite"])
    assert len(read(out)) == 17_640
    assert state.read_bytes() != b"mine"


def test_sounds_to_begin_from_that_do_not_fit(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine, one = tmp_path / "mine.wav", tmp_path / "one.wav"
    soundfile.write(mine, np.zeros(44_100 * 3), 44_100)
    soundfile.write(one, np.zeros(1), 44_100)
    rain = ["--prompt", PROMPT, "--model", str(tiny_folder)]
    away = ["--out", str(tmp_path / "a.wav")]
    fifo, clip = fifo_command.main, generate_command.main
    assert "3.0 s long, and --seconds" in refusal(
        capsys, fifo, *rain, *away, "--init_audio", str(mine), "--seconds", "1"
    )
    for command in (fifo, clip):
        assert "too short to" in refusal(capsys, command, *rain, *away, "--init_audio", str(one))
        itself = ["--init_audio", str(mine), "--out", str(mine), "--overwrite"]
        assert "written over itself" in refusal(capsys, command, *rain, *itself)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.wav", "one.wav"]


def test_a_queue_that_was_not_trained_is_named(tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    play_fifo(tiny_folder, tmp_path / "a.wav", "--seconds", "0.2")
    assert "the model was not trained for 8 + 3 x 8 frames, but for 32 + 10 x 16 frames" in caplog.text
    caplog.clear()
    argv = ["--prompt", PROMPT, "--model", str(tiny_folder), "--out", str(tmp_path / "b.wav"), "--seconds", "0.2"]
    run(fifo_command.main, argv=[*argv, "--queue.steps_per_shift", "1"])
    assert "not trained" not in caplog.text


@pytest.mark.parametrize("play", [play_fifo, make_clips])
def test_half_precision_sounds_nearly_the_same(tiny_folder: Path, tmp_path: Path, play: Callable[..., None]):
    sounds = []
    for precision in ("float32", "bfloat16"):
        path = tmp_path / f"{precision}.wav"
        play(tiny_folder, path, "--seconds", "0.5", "--precision", precision)
        sounds.append(read(path))
    level = np.abs(sounds[0]).max()
    assert 0 < np.abs(sounds[0] - sounds[1]).max() < 0.3 * level


def test_options_of_infer_fifo_are_few():
    parameters = inspect.signature(fifo_command.main).parameters.values()
    assert sum(not dataclasses.is_dataclass(parameter.default) for parameter in parameters) <= 16


def test_interrupted_run_leaves_a_playable_file(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    next_latents = EndlessStream.next_latents

    def interrupted(stream: EndlessStream) -> Tensor:
        chunk = next_latents(stream)
        if stream.num_samples > 40_000:
            signal.raise_signal(signal.SIGINT)
        return chunk

    monkeypatch.setattr(EndlessStream, "next_latents", interrupted)
    with pytest.raises(SystemExit) as stop:
        play_fifo(tiny_folder, tmp_path / "stopped.wav", "--endless", "true")
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.undo()
    play_fifo(tiny_folder, tmp_path / "whole.wav", "--seconds", "2")
    stopped, whole = read(tmp_path / "stopped.wav"), read(tmp_path / "whole.wav")
    assert len(stopped) > 4 * 8 * 1024 - 11 * 1024
    assert np.array_equal(stopped, whole[: len(stopped)])


def test_cues_are_collected_and_heard(tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert fifo_command.collect_cues(["--prompt", "a", "--cue", "1.5", "b", "--seed", "3", "--cue", "2", "c d"]) == [
        *("--prompt", "a", "--seed", "3", '--cue=[[1.5, "b"], [2.0, "c d"]]')
    ]
    assert fifo_command.collect_cues(["--cue", "soon", "b"]) == ["--cue", "soon", "b"]
    cues = fifo_command.collect_cues(["--cue", "0.6", "a clock ticks", "--cue", "1", "wind"])
    with caplog.at_level("INFO"):
        play_fifo(tiny_folder, tmp_path / "cued.wav", "--seconds", "1.2", *cues)
    play_fifo(tiny_folder, tmp_path / "plain.wav", "--seconds", "1.2")
    cued, plain = read(tmp_path / "cued.wav"), read(tmp_path / "plain.wav")
    assert not np.allclose(cued[26_460:-900], plain[26_460:-900], atol=1e-3)
    assert "cue 0.6 s, 'a clock ticks': the change begins at 0.60 s and is complete at 0.60 s" in caplog.text


def test_a_saved_stream_goes_on_where_it_stopped(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = str(tmp_path / "rain.pt")
    play_fifo(tiny_folder, tmp_path / "whole.wav", "--seconds", "2")
    play_fifo(tiny_folder, tmp_path / "first.wav", "--seconds", "0.7", "--save_state", state)
    resume = ["--resume_state", state, "--model", str(tiny_folder)]
    run(fifo_command.main, argv=[*resume, "--seconds", "1.3", "--out", str(tmp_path / "second.wav")])
    joined = np.concatenate((read(tmp_path / "first.wav"), read(tmp_path / "second.wav")))
    assert np.array_equal(joined[:-882], read(tmp_path / "whole.wav")[:-882])
    with pytest.raises(SystemExit) as stop:
        run(fifo_command.main, argv=[*resume, "--prompt", "wind", "--queue.chunk_frames", "4"])
    assert stop.value.code == 2
    assert "a resumed stream keeps its own prompt, queue; another prompt is --cue 0 TEXT" in capsys.readouterr().err


def test_an_ending_that_was_interrupted_fades_once(tiny_folder: Path, tmp_path: Path):
    """Saved, and resumed for the rest of its seconds: the same file as in one run, faded once."""
    state = str(tmp_path / "rain.pt")
    ending = ["--timing.ending", "--seconds", "2"]
    play_fifo(tiny_folder, tmp_path / "whole.wav", *ending)
    config = StreamConfig(
        queue=QueueOptions(**SHAPE), seconds=2.0, timing=StreamTiming(ending=True), guidance=STREAM_GUIDANCE
    )
    stream = EndlessStream(TextToAudio.load(tiny_folder), PROMPT, config)
    first = stream.read(0.7)[0].T
    save_stream(state, stream)
    resume = ["--resume_state", state, "--model", str(tiny_folder), "--out", str(tmp_path / "rest.wav")]
    run(fifo_command.main, argv=[*resume, "--seconds", "1.3"])
    whole, rest = read(tmp_path / "whole.wav"), read(tmp_path / "rest.wav")
    assert len(first) + len(rest) == len(whole)
    assert np.allclose(first, whole[: len(first)], atol=1e-4)
    assert np.array_equal(rest, whole[len(first) :])


def test_continuing_a_sound_file(tiny_folder: Path, tmp_path: Path):
    time = np.arange(40_000) / 44_100
    soundfile.write(tmp_path / "mine.wav", 0.4 * np.sin(3000 * time), 44_100)
    options = ["--init_audio", str(tmp_path / "mine.wav"), "--seconds", "1.5"]
    play_fifo(tiny_folder, tmp_path / "all.wav", *options)
    play_fifo(tiny_folder, tmp_path / "rest.wav", *options, "--playback.init_audio", "false", "--seconds", "0.5")
    whole, rest, mine = (read(tmp_path / name) for name in ("all.wav", "rest.wav", "mine.wav"))
    begin = 40_000 // 1024 * 1024
    assert len(whole) == 66_150
    assert np.allclose(whole[:30_000, 0], mine[40_000 - begin :][:30_000], atol=1e-4)
    assert np.array_equal(whole[begin : begin + 20_000], rest[:20_000])


def test_sigterm_closes_the_file_and_a_reader_that_leaves_is_no_error(tiny_folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "infer.fifo", "--prompt", PROMPT, "--model", str(tiny_folder), *QUEUE, "--endless"]
    root = Path(__file__).resolve().parents[2]
    path = tmp_path / "a.flac"
    with subprocess.Popen([*command, "--out", str(path)], cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while not (path.exists() and path.stat().st_size > 100_000) and process.poll() is None:
            threading.Event().wait(0.05)
        process.terminate()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "Traceback" not in error
    assert len(read(path)) > 20_000
    with subprocess.Popen(
        [*command, "--out", "-"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(50_000)) == 50_000
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in error
    assert "ffplay -f s16le -ar 44100 -ch_layout stereo -nodisp -" in error


def test_raw_samples_on_standard_output_and_a_reader_that_leaves(tiny_folder: Path, tmp_path: Path):
    read_end, write_end = os.pipe()
    received = bytearray()

    def listen():
        while len(received) < 44_100 * 4:
            received.extend(os.read(read_end, 4096))
        os.close(read_end)

    reader = threading.Thread(target=listen)
    standard_output = os.dup(1)
    os.dup2(write_end, 1)
    os.close(write_end)
    reader.start()
    try:
        play_fifo(tiny_folder, "-", "--endless", "true")  # comes back when the reader leaves
    finally:
        os.dup2(standard_output, 1)
        os.close(standard_output)
    reader.join()
    play_fifo(tiny_folder, tmp_path / "same.wav", "--seconds", "1.5")
    samples = np.frombuffer(bytes(received[: 44_100 * 4]), "<i2").reshape(-1, 2) / 32_768
    assert np.allclose(samples, read(tmp_path / "same.wav")[:44_100], atol=1e-4)


def test_the_module_is_a_command(tiny_folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "infer.fifo", "--prompt", PROMPT, "--model", str(tiny_folder), *QUEUE]
    root = Path(__file__).resolve().parents[2]
    out = ["--out", str(tmp_path / "a.wav"), "--seconds", "0.2"]
    done = subprocess.run([*command, *out], cwd=root, capture_output=True, text=True, check=True)
    assert "0.2 s of sound in" in done.stderr
    assert done.stdout == ""
    assert len(read(tmp_path / "a.wav")) == 8820


def test_memory_does_not_grow_with_the_length(tiny_model: TextToAudio):
    class Meter:
        """Bytes of all tensors alive at some of the pieces."""

        def __init__(self):
            self.count = 0
            self.bytes: dict[int, int] = {}

        def write(self, _: Tensor, /) -> None:
            self.count += 1
            if self.count in (20, 100):
                gc.collect()
                tensors = [item for item in gc.get_objects() if type(item) is Tensor]
                self.bytes[self.count] = sum(tensor.nbytes for tensor in tensors)

    queue = QueueOptions(context_frames=8, chunk_frames=8, num_chunks=2, steps_per_shift=1)
    guard = GuardConfig(pull=0.1, beginning_seconds=2.0)
    stream = EndlessStream(tiny_model, PROMPT, StreamConfig(queue=queue, guard=guard))
    meter = Meter()
    play((piece[0] for _, piece in zip(range(100), stream, strict=False)), meter, "meter", 44_100)
    assert meter.bytes[100] == meter.bytes[20] > 0
