"""Prompts from metadata: a caption wins, then a random subset of fields in the two forms, then the file's name."""

from pathlib import Path

import numpy as np
import pytest

from data.captions import make_prompt, prompt_from_path

_TRACK = {"instruments": ["Guitar", "Drums"], "moods": "Uplifting", "bpm": 120, "duration": 30.0, "license": "CC0"}


def _prompts(metadata: dict, count: int = 300) -> set[str]:
    return {make_prompt(metadata, np.random.default_rng(seed)) for seed in range(count)}


@pytest.mark.parametrize("name", ["prompt", "caption", "text", "Caption"])
def test_a_caption_wins(name: str) -> None:
    assert _prompts({**_TRACK, name: " rain\n on a roof "}) == {"rain on a roof"}


def test_one_of_several_captions_is_drawn() -> None:
    assert _prompts({"prompts": ["rain", "wind"]}) == {"rain", "wind"}


def test_both_forms_all_subsets_all_orders() -> None:
    prompts = _prompts({"Instruments": ["Guitar", "Drums"], "Moods": ["Uplifting"]})
    assert prompts == {
        "Instruments: Guitar, Drums", "Instruments: Drums, Guitar", "Moods: Uplifting", "Guitar, Drums",
        "Drums, Guitar", "Uplifting", "Instruments: Guitar, Drums|Moods: Uplifting",
        "Instruments: Drums, Guitar|Moods: Uplifting", "Moods: Uplifting|Instruments: Guitar, Drums",
        "Moods: Uplifting|Instruments: Drums, Guitar", "Guitar, Drums, Uplifting", "Drums, Guitar, Uplifting",
        "Uplifting, Guitar, Drums", "Uplifting, Drums, Guitar",
    }  # fmt: skip


def test_forms_are_even() -> None:
    drawn = [make_prompt(_TRACK, np.random.default_rng(seed)) for seed in range(1_000)]
    assert 430 < sum(":" in prompt for prompt in drawn) < 570


def test_technical_and_empty_fields_are_left_out() -> None:
    joined = " ".join(_prompts({**_TRACK, "artist": "", "year": None, "_hidden": "x", "vocals": False, "live": True}))
    assert not any(word in joined for word in ("30", "CC0", "artist", "Artist", "hidden", "vocals", "Year"))
    assert "120 BPM" in joined
    assert "live" in joined


def test_string_lists_are_split() -> None:
    assert _prompts({"genre": "Rock; Jazz"}) == {"Rock, Jazz", "Jazz, Rock", "Genre: Rock, Jazz", "Genre: Jazz, Rock"}


def test_same_generator_same_prompt() -> None:
    assert make_prompt(_TRACK, np.random.default_rng(5)) == make_prompt(_TRACK, np.random.default_rng(5))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("03_heavy-rain.wav", "heavy rain"),
        ("drum loops/0012.wav", "drum loops"),
        ("birds.in.wood.flac", "birds in wood"),
        ("0001.wav", "sound"),
    ],
)
def test_the_file_name_is_the_last_resort(path: str, expected: str) -> None:
    assert prompt_from_path(Path(path)) == expected
    assert make_prompt({"duration": 3}, np.random.default_rng(0), Path(path)) == expected
