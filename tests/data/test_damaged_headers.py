"""Headers that do not say what a file holds: all of its sound is read, or what is missing is said."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import audio as audio_module
from data.audio import AudioFile, AudioReadError, read_audio
from data.damaged_headers import Patched

RATE = 44_100


def _tone(seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.3 * np.sin(2 * np.pi * 330 * time)[:, None], 2, 1)


def _wav(path: Path, stated: int | None, seconds: float = 3.0, cut: int = 0, before: bytes = b"") -> None:
    pcm = (_tone(seconds) * 32_767).astype("<i2").tobytes()
    length = len(pcm) if stated is None else stated
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, RATE, RATE * 4, 4, 16) + before
    data = head + b"data" + struct.pack("<I", length) + pcm
    content = b"RIFF" + struct.pack("<I", 0 if stated == 0 else len(data)) + data
    path.write_bytes(content[: len(content) - cut])


@pytest.fixture(autouse=True)
def say_again() -> None:
    audio_module._say_once.cache_clear()


@pytest.mark.parametrize("before", [b"", b"LIST" + struct.pack("<I", 5) + b"INFOx\0"])
def test_a_recorder_that_was_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture, before: bytes) -> None:
    _wav(tmp_path / "killed.wav", stated=0, before=before)
    _wav(tmp_path / "good.wav", stated=None)
    np.testing.assert_array_equal(read_audio(tmp_path / "killed.wav"), read_audio(tmp_path / "good.wav"))
    np.testing.assert_array_equal(
        read_audio(tmp_path / "killed.wav", 50_000, 700), read_audio(tmp_path / "good.wav", 50_000, 700)
    )
    assert "killed.wav: its header states no length" in caplog.text
    assert "good.wav" not in caplog.text


@pytest.mark.parametrize("stated", [0xFFFF_FFFF, 0x7FFF_F000])
def test_headers_of_pipes_need_no_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture, stated: int) -> None:
    _wav(tmp_path / "piped.wav", stated=stated)
    assert read_audio(tmp_path / "piped.wav").shape == (2, 3 * RATE)
    assert not caplog.text


def test_a_cut_wav_is_read_as_far_as_it_goes_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _wav(tmp_path / "cut.wav", stated=None, seconds=4, cut=2 * RATE * 4)
    for _ in range(3):
        assert read_audio(tmp_path / "cut.wav").shape == (2, 2 * RATE)
    assert caplog.text.count("cut.wav: it was cut: its header states 4.0 s, there are 2.0 s") == 1


@pytest.mark.parametrize("stated", [0, None])
def test_a_header_alone_holds_no_audio(tmp_path: Path, stated: int | None) -> None:
    _wav(tmp_path / "only.wav", stated=stated, seconds=0)
    with pytest.raises(AudioReadError, match="it holds no audio"):
        AudioFile(tmp_path / "only.wav")


def test_an_empty_data_chunk_before_another_one_is_empty(tmp_path: Path) -> None:
    _wav(tmp_path / "empty.wav", stated=0, seconds=0)
    with (tmp_path / "empty.wav").open("ab") as file:
        file.write(b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(AudioReadError, match="it holds no audio"):
        AudioFile(tmp_path / "empty.wav")


def _mp3(path: Path, rate: int) -> bytes:
    soundfile.write(path, _tone(2, rate), rate)
    return path.read_bytes()


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("between", [b"", b"ID3\x04\0\0\0\0\x10\0" + bytes(2_048)])
def test_joined_mp3_files_are_read_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], rate: int, between: bytes
) -> None:
    one = _mp3(tmp_path / "one.mp3", rate)
    (tmp_path / "joined.mp3").write_bytes(one + between + one)
    with AudioFile(tmp_path / "joined.mp3") as file:
        assert file.seconds == pytest.approx(4, abs=0.4)
        end = file.read(round(3.0 * RATE), round(0.5 * RATE))
    assert np.abs(end).max() > 0.2
    assert "joined.mp3: several recordings are joined in it; all of them are read" in caplog.text
    assert not capfd.readouterr().err


def test_an_mp3_whose_rate_changes_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    content = _mp3(tmp_path / "a.mp3", 22_050) + _mp3(tmp_path / "b.mp3", 44_100)
    (tmp_path / "both.mp3").write_bytes(content)
    assert read_audio(tmp_path / "both.mp3").shape[1] == pytest.approx(2 * RATE, abs=200)
    assert "both.mp3: several recordings of different sample rates (22050 and 44100 Hz)" in caplog.text
    assert not capfd.readouterr().err


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(24)])
def test_a_whole_mp3_needs_no_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture, tail: bytes) -> None:
    content = _mp3(tmp_path / "a.mp3", 44_100) + tail
    (tmp_path / "a.mp3").write_bytes(content)
    assert read_audio(tmp_path / "a.mp3").shape[1] == pytest.approx(2 * RATE, abs=200)
    assert not caplog.text


def test_samples_of_another_scale_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "ints.wav", _tone(1) * 32_768, RATE, subtype="FLOAT")
    with pytest.raises(AudioReadError, match=r"ints\.wav: samples up to 9830\.\d+, where full scale is 1"):
        read_audio(tmp_path / "ints.wav")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = Path(str(tmp_path), b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    _wav(path, stated=None)
    assert read_audio(path).shape == (2, 3 * RATE)


def test_patches_read_at_any_place() -> None:
    whole = bytes(range(100))
    file = Patched(io.BytesIO(whole), {10: b"abcd", 50: b"\0"})
    expected = whole[:10] + b"abcd" + whole[14:50] + b"\0" + whole[51:]
    for start, stop in ((0, 100), (11, 13), (12, 51), (40, 60)):
        file.seek(start)
        assert file.read(stop - start) == expected[start:stop]
