"""The procedural corpus as a source: true timing, several crops a clip, validation of the held-out part."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data.corpus import (
    CorpusSource,
    InstrumentCorpus,
    SyntheticCorpus,
    named_corpus,
    training_captions,
    training_clip,
    validation_clip,
)
from data.datamodule import AudioDataModule, DataConfig

SYNTHETIC = SyntheticCorpus()


def test_crops_are_parts_of_their_clip() -> None:
    source = pickle.loads(pickle.dumps(CorpusSource(SYNTHETIC, 3, 30_000, crops_per_clip=3, num_validation=2)))
    clip = training_clip(SYNTHETIC, 3, 5)
    assert len(set(training_captions(SYNTHETIC, 3, 5, 6))) > 1
    items = source.draw(5)
    assert len({item["seconds_start"] for item in items}) == 3
    for item in items:
        start = round(item["seconds_start"] * 44_100)
        np.testing.assert_array_equal(item["audio"], clip.audio[:, start : start + 30_000])
        assert item["prompt"] == clip.prompt
        assert item["seconds_total"] == clip.metadata["seconds_total"]
        assert item["num_samples"] == 30_000


def test_short_clips_are_padded() -> None:
    clip = training_clip(SYNTHETIC, 3, 5)
    length = clip.audio.shape[1]
    item = CorpusSource(SYNTHETIC, 3, length + 1_000, 1, 0).draw(5)[0]
    assert item["num_samples"] == length
    assert not item["audio"][:, length:].any()


def test_validation_is_of_the_held_out_part() -> None:
    item = CorpusSource(SYNTHETIC, 0, 20_000, 1, 2).draw_validation(1)
    other = CorpusSource(SYNTHETIC, 9, 20_000, 1, 2).draw_validation(1)
    assert validation_clip(SYNTHETIC, 1).metadata["held_out"] is not None
    assert item["prompt"] == validation_clip(SYNTHETIC, 1).prompt
    np.testing.assert_array_equal(item["audio"], other["audio"])


def test_corpora_have_names() -> None:
    assert named_corpus("synthetic") == SYNTHETIC
    assert named_corpus("instruments", "a.sf2") == InstrumentCorpus(Path("a.sf2"))
    assert named_corpus("my_folder") is None
    nature, machines = named_corpus("nature"), named_corpus("machines")
    assert isinstance(nature, SyntheticCorpus)
    assert isinstance(machines, SyntheticCorpus)
    assert {"rain", "birds"} <= set(nature.kinds)
    assert {"siren", "clock"} <= set(machines.kinds)
    assert not {"melody", "drum loop", "sustained note"} & {*nature.kinds, *machines.kinds}
    assert all(training_clip(nature, 1, index).metadata["layers"] for index in range(2))


def test_audio_batches() -> None:
    data = AudioDataModule(DataConfig(crop_samples=8_192, batch_size=2, crops_per_clip=2, num_workers=0), seed=1)
    batch = next(iter(data.train_dataloader()))
    assert batch["audio"].shape == (2, 2, 8_192)
    assert batch["num_samples"].tolist() == [8_192, 8_192]
    assert len(batch["prompt"]) == 2
    assert batch["seconds_total"].shape == batch["seconds_start"].shape == (2,)


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("num_workers", -1), ("validation_share", 1.5), ("crop_samples", 0)]
)
def test_bad_settings_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"data.{field} must"):
        DataConfig(**{field: value})  # pyright: ignore[reportArgumentType]
