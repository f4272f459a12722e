"""Writers: exact values, files playable after every write, growth past 4 GiB, clipping counted, errors clear."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.audio import read_audio
from data.audio_writer import AudioWriter, _WavSink, write_audio


def _tone(samples: int, level: float = 0.8) -> np.ndarray:
    """A tone on the left, another on the right, (2, samples)."""
    time = np.arange(samples) / 44_100
    return (level * np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 660 * time)])).astype(np.float32)


def test_float_wav_is_exact_beyond_full_scale(tmp_path: Path) -> None:
    audio = _tone(40_000, level=1.7)
    with AudioWriter(tmp_path / "a.wav", encoding="float32") as writer:
        for start in range(0, 40_000, 7_001):
            writer.write(torch.from_numpy(audio[:, start : start + 7_001]))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), audio)
    assert writer.num_clipped == 0
    assert writer.num_samples == 40_000


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_16_bit_rounds_and_clips_and_counts(tmp_path: Path, suffix: str) -> None:
    audio = _tone(30_000)
    audio[:, 100:110] = 1.5
    audio[1, 200] = -3
    audio[0, 300] = 1
    path = tmp_path / f"a{suffix}"
    with AudioWriter(path) as writer:
        writer.write(audio)
    np.testing.assert_allclose(read_audio(path), audio.clip(-1, 1), atol=1 / 32_768)
    assert writer.num_clipped == 21
    assert soundfile.info(path).subtype == "PCM_16"


def test_ogg_is_close_and_survives_long_writes(tmp_path: Path) -> None:
    audio = _tone(2_000_000, 0.5)
    write_audio(tmp_path / "a.ogg", audio)
    read = read_audio(tmp_path / "a.ogg")
    assert read.shape == audio.shape
    assert np.abs(read - audio)[:, 2_000:-2_000].max() < 0.1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_file_left_open_is_playable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = AudioWriter(path)
    for _ in range(8):
        writer.write(_tone(44_100))
    copy = tmp_path / f"copy{suffix}"
    copy.write_bytes(path.read_bytes())
    played = read_audio(copy)
    assert played.shape[1] >= (8 * 44_100 if suffix == ".wav" else 7 * 44_100)
    writer.close()
    writer.close()
    assert read_audio(path).shape == (2, 8 * 44_100)


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_past_the_riff_limit_the_file_becomes_rf64(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "large.wav"
    sink = _WavSink(path, 44_100, np.dtype(dtype), largest_riff_bytes=50_000)
    samples = (_tone(20_000).T * (32_767 if dtype == "<i2" else 1)).astype(dtype)
    sink.write(np.ascontiguousarray(samples[:5_000]))
    sink.flush()
    assert soundfile.info(path).format == "WAV"
    sink.write(np.ascontiguousarray(samples[5_000:]))
    sink.close()
    assert path.read_bytes()[:4] == b"RF64"
    assert soundfile.info(path).format == "RF64"
    read, rate = soundfile.read(path, dtype="int16" if dtype == "<i2" else "float32")
    assert rate == 44_100
    np.testing.assert_array_equal(read, samples)
    riff_bytes, data_bytes, num_samples = struct.unpack("<QQQ", path.read_bytes()[20:44])
    assert (riff_bytes, data_bytes, num_samples) == (path.stat().st_size - 8, samples.nbytes, 20_000)


def test_a_header_can_state_more_than_4_gib(tmp_path: Path) -> None:
    sink = _WavSink(tmp_path / "large.wav", 44_100, np.dtype("<f4"))
    sink._data_bytes = 6 << 30
    header = sink._header()
    assert header[:4] == b"RF64"
    assert struct.unpack("<Q", header[28:36])[0] == 6 << 30


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg"):
        AudioWriter(tmp_path / "a.mp5")
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        AudioWriter(tmp_path / "missing" / "a.wav")
    with AudioWriter(tmp_path / "a.wav") as writer:
        with pytest.raises(ValueError, match=r"\(2, samples\)"):
            writer.write(np.zeros((3, 10)))
        with pytest.raises(ValueError, match="not finite"):
            writer.write(np.full((2, 10), np.nan))
