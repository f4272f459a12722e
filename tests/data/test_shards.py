"""Packing audio into shards: what a WebDataset reader finds in them, what is left out, interruptions."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from webdataset.compat import WebDataset

from data import shards
from data.filters import FilterConfig
from data.shards import main
from models.errors import UserError

RATE = 44_100


def _noise(path: Path, seed: int, seconds: float = 0.5, level: float = 0.3, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = level * np.random.default_rng(seed).uniform(-1, 1, (round(seconds * rate), 2))
    soundfile.write(path, audio, rate)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    for seed in range(6):
        _noise(folder / "deep" / f"a.b.song {seed}.wav", seed)
        (folder / "deep" / f"a.b.song {seed}.txt").write_text(f"noise {seed}\n")
    return folder


def _read(out: Path) -> list[dict]:
    return list(WebDataset([str(path) for path in sorted(out.glob("*.tar"))], shardshuffle=False))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_reader_of_webdataset_finds_audio_and_metadata(songs: Path, tmp_path: Path, num_workers: int) -> None:
    main(songs, tmp_path / "out", num_workers=num_workers)
    samples = _read(tmp_path / "out")
    metadata = [json.loads(sample["json"]) for sample in samples]
    assert sorted(one["path"] for one in metadata) == [f"deep/a.b.song {seed}.wav" for seed in range(6)]
    for sample, one in zip(samples, metadata, strict=True):
        assert sample["wav"] == (songs / one["path"]).read_bytes()
        assert one["prompts"] == [f"noise {one['path'][-5]}"]
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["shards"]["00000.tar"]["clips"] == 6
    assert index["shards"]["00000.tar"]["seconds"] == pytest.approx(3.0)


def test_flac_is_stereo_at_44_100_hz(tmp_path: Path) -> None:
    _noise(tmp_path / "in" / "a.wav", 0, rate=22_050)
    main(tmp_path / "in", tmp_path / "out", format="flac", num_workers=0)
    (sample,) = _read(tmp_path / "out")
    audio, rate = soundfile.read(io.BytesIO(sample["flac"]))
    assert (audio.shape, rate) == ((22_050, 2), RATE)
    assert audio.std() == pytest.approx(0.3 / 3**0.5, rel=0.1)


def test_what_is_left_out_is_named_with_its_reason(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _noise(songs / "quiet.wav", 7, level=1e-4)
    _noise(songs / "short.wav", 8, seconds=0.1)
    (songs / "broken.flac").write_bytes(b"nothing" * 100)
    audio, _ = soundfile.read(songs / "deep/a.b.song 3.wav")
    soundfile.write(songs / "zz the same.flac", audio, RATE)
    config = FilterConfig(min_seconds=0.2, silence_db=-60, duplicates=True)
    main(songs, tmp_path / "out", filter=config, num_workers=0)
    left_out = json.loads((tmp_path / "out/index.json").read_text())["left_out"]
    assert sorted(left_out) == ["broken.flac", "quiet.wav", "short.wav", "zz the same.flac"]
    text = capsys.readouterr().out
    assert "6 files, 0.00 h, in 1 shards; 0 without a caption" in text
    for expected in (
        "cannot be read",
        "silent: its peak is -",
        "too short: 0.10 s",
        "the same sound as",
    ):
        assert expected in text
    main(songs, tmp_path / "all", filter=FilterConfig(silence_db=None, duplicates=False), num_workers=0)
    assert len(_read(tmp_path / "all")) == 9


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(6, 18):
        _noise(songs / f"more {seed}.wav", seed, seconds=2)
    main(songs, tmp_path / "whole", shard_megabytes=1, num_workers=0)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")}
    assert len(expected) > 3
    write, inspect, calls = shards._write_shard, shards.inspect, []

    def interrupted(task):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(task)

    monkeypatch.setattr(shards, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(songs, tmp_path / "out", shard_megabytes=1, num_workers=0)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    monkeypatch.setattr(shards, "inspect", lambda file: pytest.fail(f"{file.path} is decoded again"))
    main(songs, tmp_path / "out", shard_megabytes=1, num_workers=0)
    monkeypatch.setattr(shards, "inspect", inspect)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == expected


def test_clear_errors(songs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        main(songs, tmp_path / "no" / "out", num_workers=0)
    with pytest.raises(UserError, match=r"nothing is left of .*6 files \(6 too short\)"):
        main(songs, tmp_path / "out", filter=FilterConfig(min_seconds=9), num_workers=0)
    main(songs, tmp_path / "out", num_workers=0)
    with pytest.raises(UserError, match="holds shards of other files or settings"):
        main(songs, tmp_path / "out", format="flac", num_workers=0)
    with pytest.raises(UserError, match=r"filter\.silence_db must be in \[-200, 0\], got 3"):
        FilterConfig(silence_db=3)
