"""A user's folder: sidecars and manifests, true timing, padding; nothing unreadable is lost in silence."""

import csv
import json
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.datamodule import AudioDataModule, DataConfig
from data.folder import FolderSource, list_entries, split_entries


def _ramp(path: Path, seconds: float = 1.0, rate: int = 44_100, channels: int = 2) -> None:
    """Write audio whose value tells its time: 0 ... 1 over 10 seconds."""
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, np.repeat(time[:, None] / 10, channels, 1).astype(np.float32), rate, subtype="FLOAT")


def _truncate(path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (88_200, 2))
    soundfile.write(path, noise, 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def _source(folder: Path, **options) -> FolderSource:
    defaults = {
        "seed": 0, "crop_samples": 22_050, "num_validation": 8, "validation_share": 0.0, "max_unreadable_share": 0.05
    }  # fmt: skip
    return FolderSource(folder, **(defaults | options))


def test_crops_tell_where_they_are(tmp_path: Path) -> None:
    _ramp(tmp_path / "long.wav", 3.0)
    starts = set()
    source = _source(tmp_path)
    for index in range(20):
        (item,) = source.draw(index)
        assert item["audio"].shape == (2, 22_050)
        assert item["num_samples"] == 22_050
        assert item["seconds_total"] == pytest.approx(3.0)
        assert item["audio"][0, 0] == pytest.approx(item["seconds_start"] / 10, abs=1e-6)
        starts.add(item["seconds_start"])
    assert len(starts) > 15
    assert 0 <= min(starts) < 0.6
    assert 1.9 < max(starts) <= 2.5


def test_short_files_are_padded_with_silence(tmp_path: Path) -> None:
    _ramp(tmp_path / "short.wav", 0.2, rate=22_050, channels=1)
    (item,) = _source(tmp_path).draw(3)
    assert item["num_samples"] == 8_820
    assert item["seconds_start"] == 0
    assert item["seconds_total"] == pytest.approx(0.2)
    assert np.abs(item["audio"][:, :8_820]).max() > 0.015
    assert not item["audio"][:, 8_820:].any()


def test_sidecars(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "two words"):
        _ramp(tmp_path / f"{name}.wav")
    (tmp_path / "a.txt").write_text("a caption\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "from json", "bpm": 90}), encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps({"mood": "dark"}), encoding="utf-8")
    source = _source(tmp_path)
    prompts = {source.draw(index)[0]["prompt"] for index in range(40)}
    assert prompts == {"a caption", "from json", "dark", "Mood: dark", "two words"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_manifests(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "audio").mkdir()
    rows = [{"path": f"audio/{name}.wav", "prompt": f"sound {name}", "extra": "x"} for name in "ab"]
    for name in "ab":
        _ramp(tmp_path / "audio" / f"{name}.wav")
    manifest = tmp_path / f"manifest{suffix}"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".csv":
            writer = csv.DictWriter(file, ["path", "prompt", "extra"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    for place in (manifest, tmp_path):
        source = _source(place)
        assert {source.draw(index)[0]["prompt"] for index in range(4)} == {"sound a", "sound b"}


def test_every_pass_has_every_file_once_in_another_order(tmp_path: Path) -> None:
    for number in range(12):
        _ramp(tmp_path / f"file {chr(97 + number)}.wav", 0.1)
    source = _source(tmp_path)
    passes = [[source.draw(index)[0]["prompt"] for index in range(k * 12, k * 12 + 12)] for k in range(2)]
    assert len(set(passes[0])) == len(set(passes[1])) == 12
    assert passes[0] != passes[1]
    again = _source(tmp_path)
    assert again.draw(17)[0]["prompt"] == passes[1][5]
    assert [_source(tmp_path, seed=1).draw(index)[0]["prompt"] for index in range(12)] != passes[0]


def test_a_corrupt_file_is_named_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcde":
        _ramp(tmp_path / f"good {name}.wav")
    (tmp_path / "bad text.mp3").write_bytes(b"not audio" * 200)
    with caplog.at_level(logging.WARNING):
        source = _source(tmp_path)
        prompts = {source.draw(index)[0]["prompt"] for index in range(30)}
    assert prompts == {f"good {name}" for name in "abcde"}
    assert source.unreadable.listed() == ["bad text.mp3"]
    named = [record.getMessage() for record in caplog.records if "bad text.mp3" in record.getMessage()]
    assert len(named) == 1
    assert "1 of 6 files unreadable" in named[0]


def test_a_truncated_flac_is_found_when_it_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        _ramp(tmp_path / f"good {name}.wav")
    _truncate(tmp_path / "cut.flac")
    source = _source(tmp_path, crop_samples=88_200)
    assert not len(source.unreadable)
    with caplog.at_level(logging.WARNING):
        prompts = {source.draw(index)[0]["prompt"] for index in range(16)}
    assert "cut" not in prompts
    assert source.unreadable.listed() == ["cut.flac"]
    assert "cut.flac" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_unreadable_files_stop_the_run(tmp_path: Path, num_workers: int) -> None:
    for name in "abcd":
        _ramp(tmp_path / f"good {name}.wav")
    for name in "xy":
        _truncate(tmp_path / f"cut {name}.flac")
    data = AudioDataModule(
        DataConfig(folder=str(tmp_path), crop_samples=88_200, batch_size=4, num_workers=num_workers, validation_share=0)
    )
    with pytest.raises(ValueError, match=r"^2 of 6 audio files cannot be read, more than data\.max_unreadable_share"):
        list(islice(data.train_dataloader(), 6))
    assert sorted(data.source.unreadable.listed()) == ["cut x.flac", "cut y.flac"]  # pyright: ignore


def test_a_single_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "only.wav").write_bytes(b"no")
    with pytest.raises(ValueError, match="1 of 1 audio files cannot be read"):
        _source(tmp_path)


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such audio folder"):
        list_entries(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no sound here", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no audio in .*expected files ending in \.wav"):
        list_entries(tmp_path)
    with pytest.raises(ValueError, match="no manifest"):
        list_entries(tmp_path / "notes.txt")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.jsonl, line 1: no path"):
        list_entries(manifest)
    manifest.write_text("{broken\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.jsonl, line 1 is not JSON"):
        list_entries(manifest)


def test_validation_is_held_out_and_fixed(tmp_path: Path) -> None:
    for number in range(10):
        _ramp(tmp_path / f"file {chr(97 + number)}.wav", 1.0)
    entries = list_entries(tmp_path)
    training, validation = split_entries(entries, 0.2)
    assert sorted(training + validation) == list(range(10))
    assert len(validation) == 2
    first, second = (_source(tmp_path, validation_share=0.2, seed=seed) for seed in (0, 1))
    held_out = {entries[index].name.stem for index in validation}
    assert first.num_validation == 8
    for index in range(8):
        one, other = first.draw_validation(index), second.draw_validation(index)
        assert one["prompt"] == other["prompt"]
        assert one["prompt"] in held_out
        np.testing.assert_array_equal(one["audio"], other["audio"])
    assert not held_out & {first.draw(index)[0]["prompt"] for index in range(30)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_mixed_formats(tmp_path: Path, num_workers: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (30_000, 6))
    files = [("a.wav", 22_050, 1), ("b.flac", 96_000, 2), ("c.ogg", 48_000, 2), ("d.mp3", 32_000, 1)]
    for name, rate, channels in [*files, ("e.wav", 44_100, 6)]:
        soundfile.write(tmp_path / name, noise[:, :channels], rate)
    config = DataConfig(
        folder=str(tmp_path), crop_samples=16_384, batch_size=5, num_workers=num_workers, validation_share=0
    )
    (batch,) = islice(AudioDataModule(config).train_dataloader(), 1)
    assert batch["audio"].shape == (5, 2, 16_384)
    assert bool((batch["audio"].abs().amax((1, 2)) > 0.05).all())
    expected = sorted([60_000, 13_781, 27_562, 41_344, 30_000])
    assert sorted((batch["seconds_total"] * 44_100).round().int().tolist()) == pytest.approx(expected, abs=2_400)
    assert batch["num_samples"].max() == 16_384


def test_captions_beside_a_file_in_all_usual_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "deep rumble"):
        _ramp(tmp_path / f"{name}.wav", 0.1)
    for name in ("a.txt", "b.caption.txt", "c.TXT", "d.caption", "e.wav.txt"):
        (tmp_path / name).write_text(f"text of {name[0]}", encoding="utf-8")
    (tmp_path / "f.JSON").write_text('{"Caption": "text of f"}', encoding="utf-8")
    (tmp_path / "deep rumble.txt").write_text("  \n", encoding="utf-8")
    source = _source(tmp_path)
    prompts = {source.draw(index)[0]["prompt"] for index in range(7)}
    assert prompts == {"deep rumble", *(f"text of {letter}" for letter in "abcdef")}


def test_files_without_a_caption_are_counted_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcd":
        _ramp(tmp_path / f"{name}.wav", 0.1)
    (tmp_path / "a.txt").write_text("rain")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.json").write_text('{"caption": null, "genre": "rock"}')
    _source(tmp_path)
    assert "3 of 4 audio files have no caption" in caplog.text
    assert "b.wav, c.wav, d.wav" in caplog.text


def test_a_sidecar_without_a_meaning_leaves_its_file_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcdef":
        _ramp(tmp_path / f"{name}.wav", 0.1)
    (tmp_path / "a.txt").write_text("rain")
    (tmp_path / "b.json").write_text("null")
    (tmp_path / "c.json").write_text('{"caption": "x"')
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "e.json").write_text('{"caption": true}')
    source = _source(tmp_path, max_unreadable_share=0.9)
    assert source.unreadable.listed() == [f"{name}.wav" for name in "bcde"]
    for expected in ("b.json must be a JSON object", "c.json is not JSON", "d.txt, line 1", "e.json: caption must be"):
        assert expected in caplog.text
    assert {source.draw(index)[0]["prompt"] for index in range(8)} == {"rain", "sound"}


def test_links_give_every_real_file_once(tmp_path: Path) -> None:
    real = tmp_path / "x"
    real.mkdir()
    for name in "ab":
        _ramp(real / f"{name}.wav", 0.1)
    (real / "self").symlink_to(".")
    (real / "up").symlink_to("..")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("x")
    (tmp_path / "A linked.wav").symlink_to(real / "a.wav")
    (tmp_path / "hard.wav").hardlink_to(real / "b.wav")
    (tmp_path / "other").mkdir()
    _ramp(tmp_path / "other" / "c.wav", 0.1)
    names = [entry.name.as_posix() for entry in list_entries(tmp_path)]
    assert len(names) == 3
    training, validation = split_entries(list_entries(tmp_path), 0.4)
    assert len(training) + len(validation) == 3


def test_lines_about_one_file_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    for name in "abcd":
        _ramp(tmp_path / f"{name}.wav", 0.1)
    rows = [{"path": path, "caption": str(n)} for n in range(4) for path in ("a.wav", "./b.wav", "c.wav", "d.wav")]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = list_entries(tmp_path)
    training, validation = split_entries(entries, 0.25)
    assert len(validation) == 4
    assert len({entries[index].path for index in validation}) == 1
    assert not {entries[index].path for index in training} & {entries[index].path for index in validation}


def test_a_name_that_is_not_utf_8_is_a_file_like_others(tmp_path: Path) -> None:
    _ramp(tmp_path / "good.wav", 0.1)
    (tmp_path / "good.wav").rename(Path(str(tmp_path), b"caf\xe9 noise.wav".decode("utf-8", "surrogateescape")))
    source = _source(tmp_path)
    assert source.draw(0)[0]["prompt"] == "café noise"
    assert not len(source.unreadable)
