"""Sinks, progress, levels and interruption."""

import errno
import os
import signal
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from infer.playback import QUIET_DB, LevelMeter, RawSink, open_sink, play

RATE = 44_100


def test_playing_into_a_file_leaves_it_readable_after_every_piece(tmp_path: Path):
    path = tmp_path / "sound.wav"
    lengths = []

    def pieces():
        for _ in range(4):
            yield torch.full((2, 4410), 0.25)
            lengths.append(soundfile.info(path).frames)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_sink(str(path), RATE) as sink:
        play(pieces(), sink, "sound.wav", RATE, 10.0)
    assert lengths == [4410, 8820, 13230, 17640]
    audio, rate = soundfile.read(path)
    assert rate == 44_100
    assert np.allclose(audio, 0.25, atol=1e-4)


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_raw_samples_are_interleaved(encoding):
    read, write = os.pipe()
    audio = torch.tensor([[0.0, 0.5, 1.0], [-0.25, -1.0, 0.125]])
    RawSink(encoding, write).write(audio)
    os.close(write)
    data = os.read(read, 1000)
    os.close(read)
    values = np.frombuffer(data, "<i2") / 32768 if encoding == "s16le" else np.frombuffer(data, "<f4")
    assert np.allclose(values, [0, -0.25, 0.5, -1, 1, 0.125], atol=1e-4)


def test_a_slow_reader_gets_everything():
    read, write = os.pipe()
    received = bytearray()

    def drain():
        while data := os.read(read, 4096):
            received.extend(data)

    reader = threading.Thread(target=drain)
    reader.start()
    audio = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0))
    RawSink("f32le", write).write(audio)
    os.close(write)
    reader.join()
    os.close(read)
    assert np.array_equal(np.frombuffer(bytes(received), "<f4").reshape(-1, 2).T, audio.numpy())


def test_a_pipe_that_does_not_block_is_waited_for():
    read, write = os.pipe()
    os.set_blocking(write, False)
    received = bytearray()

    def drain():
        while data := os.read(read, 4096):
            received.extend(data)

    audio = torch.rand(2, 100_000, generator=torch.Generator().manual_seed(0))
    reader = threading.Timer(0.05, drain)
    reader.start()
    RawSink("f32le", write).write(audio)
    os.close(write)
    reader.join()
    os.close(read)
    assert np.array_equal(np.frombuffer(bytes(received), "<f4").reshape(-1, 2).T, audio.numpy())


def test_a_reader_that_never_reads_does_not_hold_ctrl_c_back():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    read, write = os.pipe()
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        play(iter([torch.zeros(2, 100_000)] * 3), RawSink("s16le", write), "pipe", RATE)
    timer.join()
    signal.signal(signal.SIGINT, previous)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("number", "stop"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_file_after_the_piece_under_way(tmp_path: Path, number: int, stop: type):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored

    def pieces():
        for count in range(9):
            if count == 3:
                signal.raise_signal(number)
            yield torch.full((2, 100), count / 10)

    path = tmp_path / "sound.flac"
    with pytest.raises(stop), open_sink(str(path), RATE) as sink:
        play(pieces(), sink, "sound.flac", RATE)
    signal.signal(signal.SIGINT, previous)
    audio, _ = soundfile.read(path)
    assert np.allclose(audio[:, 0], np.repeat([0, 0.1, 0.2, 0.3], 100), atol=1e-4)


def test_a_reader_that_goes_away_ends_the_stream():
    read, write = os.pipe()
    sink = RawSink("s16le", write)
    made = []

    def pieces():
        for number in range(5):
            if number == 2:
                os.close(read)
            made.append(number)
            yield torch.zeros(2, 10)

    assert play(pieces(), sink, "-", RATE) is False
    assert made == [0, 1, 2]
    os.close(write)


def test_progress_names_seconds_factor_and_summary(capfd: pytest.CaptureFixture[str]):
    class Nowhere:
        def write(self, audio: Tensor, /) -> None: ...

    assert play(islice(iter([torch.zeros(2, 22_050)] * 4), 4), Nowhere(), "rain.wav", RATE, 2.0)
    shown = capfd.readouterr()
    assert "rain.wav: 2.0 s of sound in" in shown.err
    assert "left" in shown.err
    assert shown.out == ""


def test_a_full_disk_while_writing_is_one_clear_error(tmp_path: Path):
    path = tmp_path / "a.flac"
    path.symlink_to("/dev/full")
    noise = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0)) - 0.5
    with pytest.raises(OSError) as error, open_sink(str(path), RATE, overwrite=True) as sink:  # noqa: PT011
        play(iter([noise]), sink, "a.flac", RATE)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)


def test_nearly_silent_sound_is_named_with_its_level(caplog: pytest.LogCaptureFixture):
    for level, is_named in ((-60.0, True), (QUIET_DB + 1, False)):
        meter = LevelMeter()
        for _ in range(3):
            meter.push(torch.full((2, 1000), 10 ** (level / 20)))
        caplog.clear()
        meter.report("a.wav")
        assert meter.db == pytest.approx(level)
        assert (f"a.wav is nearly silent ({level:.0f} dBFS)" in caplog.text) == is_named
    silence = LevelMeter()
    silence.push(torch.zeros(2, 10))
    silence.report("b.wav")
    assert "b.wav is nearly silent (-inf dBFS)" in caplog.text
