"""From latents to sound: exact streaming, the limiter, cutting, sinks."""

import copy
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

from infer.limiter import limit
from infer.stream import (
    CallbackSink,
    Decoding,
    RawSink,
    check_output,
    check_seconds,
    cut,
    decode_stream,
    file_name,
    on_device,
    open_sink,
    play,
)
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(
        VAEConfig(
            latent_channels=3,
            waveform=WaveformConfig(encoder_width=4, encoder_strides=(2, 4), decoder_width=16, decoder_strides=(4, 2)),
        )
    ).eval()


def test_streamed_decoding_is_the_whole_decoding(vae: VAE):
    latents = torch.randn(1, 3, 40, generator=torch.Generator().manual_seed(1))
    pieces = list(decode_stream(latents.split(7, dim=-1), vae))
    with torch.no_grad():
        whole = limit(vae.decode(latents)[0])
    assert len(pieces) > 3
    assert torch.allclose(torch.cat(pieces, dim=-1), whole, atol=1e-6)


def test_decoding_resumed_from_its_state_equals_one_that_never_stopped(vae: VAE):
    exact = copy.deepcopy(vae).double()  # in float32, chunks of other lengths differ by more at such levels
    generator = torch.Generator().manual_seed(1)
    latents = 30 * torch.randn(1, 3, 400, generator=generator).double()  # loud: the limiter is at work
    whole = torch.cat(list(decode_stream(latents.split(10, dim=-1), exact)), dim=-1)
    first = Decoding(exact)
    start = first.push(latents[..., :210])
    second = Decoding(exact)
    second.load_state_dict(first.state_dict())
    resumed = torch.cat((start, second.push(latents[..., 210:]), second.finish()), dim=-1)
    assert torch.allclose(resumed, whole, atol=1e-6)


def test_sound_that_is_not_finite_is_refused(vae: VAE):
    with pytest.raises(ValueError, match="not finite"):
        list(decode_stream([torch.full((1, 3, 40), float("nan"))], vae))


@pytest.mark.parametrize("size", [1, 100, 999, 5000])
def test_cut_ends_at_the_sample_with_a_fade(size: int):
    pieces = torch.ones(2, 5000).split(size, dim=-1)
    audio = torch.cat(list(cut(pieces, 3000)), dim=-1)
    assert audio.shape == (2, 3000)
    assert torch.equal(audio[:, : 3000 - 882], torch.ones(2, 3000 - 882))  # 20 ms
    assert (audio.diff() <= 0).all()
    assert audio[0, -1] == 0
    assert audio.diff().abs().max() < 0.005


def test_cut_asks_for_no_more_than_it_needs():
    taken = []

    def pieces():
        for number in range(100):
            taken.append(number)
            yield torch.ones(2, 100)

    assert sum(piece.shape[1] for piece in cut(pieces(), 250)) == 250
    assert taken == [0, 1, 2]


def test_playing_into_a_file_leaves_it_readable_after_every_piece(tmp_path: Path):
    path = tmp_path / "sound.wav"
    lengths = []

    def pieces():
        for _ in range(4):
            yield torch.full((2, 4410), 0.25)
            lengths.append(soundfile.info(path).frames)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_sink(str(path)) as sink:
        play(pieces(), sink, "sound.wav", 10.0)
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
        play(iter([torch.zeros(2, 100_000)] * 3), RawSink("s16le", write), "pipe")
    timer.join()
    signal.signal(signal.SIGINT, previous)
    os.close(read)
    os.close(write)


def test_states_move_between_devices():
    state = {"a": [torch.zeros(2), {"b": torch.ones(1)}], "c": 3, "d": None}
    moved = on_device(state, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1]["b"].device.type == "meta"
    assert (moved["c"], moved["d"]) == (3, None)


def test_a_callback_gets_every_piece():
    got = []
    pieces = list(torch.arange(12.0).reshape(2, 6).split(2, dim=-1))
    assert play(iter(pieces), CallbackSink(got.append), "callback")
    assert all(torch.equal(a, b) for a, b in zip(got, pieces, strict=True))


@pytest.mark.parametrize(("number", "stop"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_file_after_the_piece_under_way(tmp_path: Path, number: int, stop: type):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored

    def pieces():
        for count in range(9):
            if count == 3:
                signal.raise_signal(number)
            yield torch.full((2, 100), count / 10)

    path = tmp_path / "sound.flac"
    with pytest.raises(stop), open_sink(str(path)) as sink:
        play(pieces(), sink, "sound.flac")
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

    assert play(pieces(), sink, "-") is False
    assert made == [0, 1, 2]
    os.close(write)


def test_progress_names_seconds_factor_and_summary(capfd: pytest.CaptureFixture[str]):
    class Nowhere:
        def write(self, audio: Tensor, /) -> None: ...

        def close(self) -> None: ...

    assert play(islice(iter([torch.zeros(2, 22_050)] * 4), 4), Nowhere(), "rain.wav", 2.0)
    shown = capfd.readouterr()
    assert "rain.wav: 2.0 s of sound in" in shown.err
    assert "left" in shown.err
    assert shown.out == ""


def test_bad_requests(tmp_path: Path):
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            check_seconds(seconds)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_output(tmp_path / "no" / "a.wav")
    with pytest.raises(ValueError, match=r"\.flac"):
        check_output(tmp_path / "a.mp3")
    with pytest.raises(ValueError, match="is a folder"):
        check_output(tmp_path)


def test_file_names():
    assert file_name("Heavy rain, with distant thunder!", 3) == "heavy-rain-with-distant-thunder-3.wav"
    assert file_name("???", 0) == "sound-0.wav"
    assert file_name("réveil/../x", 0, ".flac") == "réveil-x-0.flac"
    assert len(file_name("word " * 100, 0)) < 80
