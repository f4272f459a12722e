"""Mixtures: exact shares, whole passes of each source, crops and whole clips of corpora and folders together."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.audio_writer import write_audio
from data.clips import LatentDataConfig, open_clips
from data.datamodule import AudioDataModule, DataConfig
from data.mixture import MixedSource, Shares
from models.errors import UserError
from tests.data.tiny_soundfont import write_soundfont

pytest.importorskip("tinysoundfont", reason="needs the extra corpus")


@pytest.fixture(scope="module")
def soundfont(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_soundfont(tmp_path_factory.mktemp("soundfont") / "tiny.sf2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("recordings")
    for number in range(4):
        write_audio(place / f"{number}.wav", np.full((2, 30_000), 0.1 * number, dtype=np.float32))
        (place / f"{number}.txt").write_text(f"recording {number}")
    return str(place)


def test_shares_are_exact_and_spread_evenly() -> None:
    shares = Shares([5, 3, 2])
    parts = [shares.place(number)[0] for number in range(1_000)]
    assert Counter(parts) == {0: 500, 1: 300, 2: 200}
    assert all(Counter(parts[start : start + 10]) == {0: 5, 1: 3, 2: 2} for start in range(0, 1_000, 10))
    for part in range(3):
        numbers = [number for which, number in map(shares.place, range(1_000)) if which == part]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [], [1, float("nan")], [1, 0.001]])
def test_weights_are_checked(weights: list[float]) -> None:
    with pytest.raises(UserError, match="weights of a mixture must be positive"):
        Shares(weights)


def test_crops_of_a_mixture(soundfont: str, folder: str) -> None:
    config = DataConfig(
        mixture={"instruments": 2, "nature": 1, folder: 1}, soundfont=soundfont, crop_samples=20_000, batch_size=4,
        crops_per_clip=2, num_workers=0, num_validation=8, validation_share=0.25,
    )  # fmt: skip
    data = AudioDataModule(config, seed=1)
    source = data.make_source()
    assert isinstance(source, MixedSource)
    draws = [source.draw(index) for index in range(12)]
    assert all(len(items) == 2 for items in draws)
    recorded = [item["prompt"] for items in draws for item in items if item["prompt"].startswith("recording")]
    assert len(recorded) == 6
    assert Counter(recorded).most_common()[-1][1] == 2  # three training files in whole passes
    again = source.draw(5)
    np.testing.assert_array_equal(again[1]["audio"], draws[5][1]["audio"])
    held_out = [source.draw_validation(index)["prompt"] for index in range(source.num_validation)]
    assert sum(prompt.startswith("recording") for prompt in held_out) == 2
    batch = next(iter(data.train_dataloader()))
    assert batch["audio"].shape == (4, 2, 20_000)


def test_whole_clips_of_a_mixture(soundfont: str, folder: str) -> None:
    data = LatentDataConfig(mixture={"instruments": 1, folder: 1}, soundfont=soundfont, validation_share=0.25)
    clips = open_clips(data, 10, 4, seed=3)
    assert (clips.size("train"), clips.size("validation")) == (10, 4)
    names = []
    for index in range(10):
        clip = clips.clip("train", index)
        assert clip is not None
        names.append(clip.about["name"])
        if clip.part == 0:
            assert len(clip.about["metadata"]["prompts"]) == 16
            assert clip.about["metadata"]["soundfont"] == "tiny.sf2"
    assert sum(name.startswith("train/") for name in names) == 5
    assert len({name for name in names if name.endswith(".wav")}) == 3  # five places, three files
    origin = clips.origin()
    assert list(origin["parts"]) == ["instruments", folder]
    json.dumps(origin)
    validation = [clips.clip("validation", index) for index in range(4)]
    assert sum(clip is not None and clip.part == 1 for clip in validation) == 2
    assert clips.left_out() == []


def test_an_unreadable_file_is_left_out_by_its_own_set(soundfont: str, folder: str, tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        (tmp_path / f"{name}.wav").write_bytes((Path(folder) / f"{name}.wav").read_bytes())
    data = LatentDataConfig(
        mixture={"instruments": 1, str(tmp_path): 1}, soundfont=soundfont, validation_share=0, max_unreadable_share=0.5
    )
    clips = open_clips(data, 4, 0, seed=0)
    clip = clips.clip("train", 1)
    assert clip is not None
    clips.leave_out(clip, ValueError("cut off"))
    assert clips.left_out() == [clip.about["name"]]


def test_a_mixture_goes_alone(folder: str) -> None:
    with pytest.raises(UserError, match=r"got folder and mixture"):
        DataConfig(mixture={"synthetic": 1}, folder=folder)
    with pytest.raises(UserError, match=r"data\.folder or data\.mixture, not both"):
        LatentDataConfig(mixture={"synthetic": 1}, folder=folder)
    with pytest.raises(UserError, match="leave it out"):
        LatentDataConfig(mixture={"synthetic": 1}, kinds=("rain",))
    with pytest.raises(FileNotFoundError, match="no such audio folder"):
        open_clips(LatentDataConfig(mixture={"sythetic": 1}), 2, 1, seed=0)
