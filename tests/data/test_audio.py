"""Reading by seeking equals reading the whole; resampled segments; channel folding; what cannot be read says so."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from data.audio import AudioFile, AudioReadError, fold_to_stereo, read_audio


def _noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Band-limited noise (samples, channels) that survives lossy coding in recognisable form."""
    noise = np.random.default_rng(seed).standard_normal((samples, channels))
    return (0.2 * (noise + np.roll(noise, 1, 0) + np.roll(noise, 2, 0)) / 3).astype(np.float32)


def _chirp(samples: int) -> np.ndarray:
    """A rising tone (2, samples): AAC replaces noise by random noise of its own."""
    time = np.arange(samples) / 48_000
    return np.stack([0.5 * np.sin(2 * np.pi * (200 + k * 150 * time) * time) for k in (1, 2)]).astype(np.float32)


def _write(path: Path, audio: np.ndarray, rate: int) -> Path:
    subtypes = {".wav": "FLOAT", ".flac": "PCM_16", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": None}
    container = {".opus": "OGG"}.get(path.suffix)
    with soundfile.SoundFile(path, "w", rate, audio.shape[1], subtypes[path.suffix], format=container) as file:
        for start in range(0, len(audio), 16_384):
            file.write(audio[start : start + 16_384])
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("rate", [44_100, 48_000, 16_000])
def test_a_segment_equals_the_slice_of_the_whole(tmp_path: Path, suffix: str, rate: int) -> None:
    if suffix == ".opus" and rate == 44_100:
        rate = 24_000
    path = _write(tmp_path / f"noise{suffix}", _noise(3 * rate), rate)
    whole = read_audio(path)
    with AudioFile(path) as file:
        assert whole.shape == (2, file.num_samples)
        for start, length in [(0, 5_000), (60_001, 30_000), (file.num_samples - 7_000, 7_000), (17, 0)]:
            segment = file.read(start, length)
            assert segment.shape == (2, length)
            np.testing.assert_allclose(segment, whole[:, start : start + length], atol=2e-6)
        assert file.read(file.num_samples - 10, 50).shape == (2, 10)
    assert abs(whole.shape[1] / 44_100 - 3) < 0.1


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".opus"])
def test_many_seeks_in_compressed_audio_are_exact(tmp_path: Path, suffix: str) -> None:
    rate = 48_000
    source = _noise(5 * rate)
    source[2 * rate : 3 * rate] *= 0.001
    source[3 * rate : 3 * rate + 10] = 0.9
    path = _write(tmp_path / f"noise{suffix}", source, rate)
    whole = read_audio(path)
    with AudioFile(path) as file:
        for start in np.random.default_rng(1).integers(0, file.num_samples - 4_000, 60):
            np.testing.assert_allclose(file.read(start, 4_000), whole[:, start : start + 4_000], atol=2e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_099, 47_999, 48_000, 88_200, 96_000, 192_000])
def test_resampled_segments_equal_the_resampled_file(tmp_path: Path, rate: int) -> None:
    source = _noise(2 * rate + 17)
    path = _write(tmp_path / "noise.wav", source, rate)
    whole = soxr.resample(source, rate, 44_100, quality="HQ").T
    for start in (0, 1, 30_007, 70_001):
        np.testing.assert_allclose(read_audio(path, start, 12_000), whole[:, start : start + 12_000], atol=2e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_channels_fold_to_two(tmp_path: Path, channels: int) -> None:
    source = _noise(9_000, channels)
    audio = read_audio(_write(tmp_path / "noise.wav", source, 44_100))
    assert audio.shape == (2, 9_000)
    if channels == 2:
        np.testing.assert_array_equal(audio, source.T)
    elif channels != 6:
        np.testing.assert_allclose(audio, np.repeat(source.mean(1)[None], 2, 0), atol=1e-7)


def test_surround_keeps_its_sides_and_cannot_clip() -> None:
    def level(channel: int) -> list[float]:
        return fold_to_stereo(np.eye(6, dtype=np.float32)[channel : channel + 1])[0].tolist()

    left, right, centre, effects, left_surround, right_surround = (level(channel) for channel in range(6))
    assert left[0] > left[1] == 0
    assert right[1] > right[0] == 0
    assert centre[0] == centre[1] == pytest.approx(left[0] * 0.5**0.5)
    assert effects == [0, 0]
    assert left_surround == [pytest.approx(left[0] * 0.5**0.5), 0]
    assert right_surround == [0, pytest.approx(left[0] * 0.5**0.5)]
    assert np.abs(fold_to_stereo(np.ones((1, 6), np.float32))).max() <= 1 + 1e-6


def test_a_truncated_flac_fails_only_where_it_breaks(tmp_path: Path) -> None:
    path = _write(tmp_path / "cut.flac", _noise(4 * 44_100), 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with AudioFile(path) as file:
        assert file.read(0, 1_000).shape == (2, 1_000)
        with pytest.raises(AudioReadError, match=r"cut\.flac"):
            file.read(3 * 44_100, 44_100)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_what_is_not_audio_says_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(b"this is no sound\n" * 100)
    with pytest.raises(AudioReadError, match=f"text.{suffix[1:]}"):
        read_audio(path)
    path.write_bytes(b"")
    with pytest.raises(AudioReadError, match=f"text.{suffix[1:]}"):
        read_audio(path)


def test_missing_files_and_bad_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        AudioFile(tmp_path / "nothing.wav")
    path = _write(tmp_path / "short.wav", _noise(100), 44_100)
    with pytest.raises(ValueError, match="between 0 and 100"):
        read_audio(path, 101)


def test_not_finite_samples_are_unreadable(tmp_path: Path) -> None:
    source = _noise(100)
    source[50] = np.nan
    with pytest.raises(AudioReadError, match="not finite"):
        read_audio(_write(tmp_path / "nan.wav", source, 44_100))


@pytest.mark.parametrize("suffix", [".m4a", ".webm"])
def test_pyav_segments_equal_the_whole(tmp_path: Path, suffix: str) -> None:
    av = pytest.importorskip("av")
    rate = 48_000
    path = tmp_path / f"noise{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if suffix == ".m4a" else "libopus", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(_chirp(3 * rate), format="fltp", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate, frame_size=stream.frame_size)
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    whole = read_audio(path)
    assert abs(whole.shape[1] / 44_100 - 3) < 0.1
    for start, length in [(0, 9_000), (50_001, 20_000), (100_000, 10_000)]:
        np.testing.assert_allclose(read_audio(path, start, length), whole[:, start : start + length], atol=1e-4)
