"""Prompts from metadata: a caption wins, then a random subset of fields in the two forms, then the file's name."""

from pathlib import Path

import numpy as np
import pytest

from data.captions import Captioner, CaptionError, make_prompt, prompt_from_path
from models.errors import UserError

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


def _rule(metadata: dict) -> str:
    return f"{metadata['title']} ({metadata['name']})"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("nothing", "must be module:function, got 'nothing'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        (f"{__name__}:no_such", "no attribute 'no_such'"),
        (f"{__name__}:_TRACK", "is no function"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_the_start(rule: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Captioner(rule)


def test_the_users_own_rule_gets_the_metadata_and_the_name() -> None:
    captioner = Captioner(f"{__name__}:_rule")
    generator = np.random.default_rng(0)
    assert captioner({"title": "Rain"}, generator, Path("x/a.wav")) == "Rain (x/a.wav)"
    with pytest.raises(CaptionError, match=r"fails for x/a\.wav: KeyError: 'title'"):
        captioner({}, generator, Path("x/a.wav"))


@pytest.mark.parametrize("made", [7, "  ", [], ["a", ""], ["a", None], {"a": "b"}])
def test_a_rule_must_make_prompts(monkeypatch: pytest.MonkeyPatch, made) -> None:
    monkeypatch.setitem(globals(), "_rule", lambda _: made)
    with pytest.raises(CaptionError, match=r"must return a prompt, a list of prompts or None, for a\.wav"):
        Captioner(f"{__name__}:_rule")({}, np.random.default_rng(0), Path("a.wav"))
