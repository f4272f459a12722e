"""Configurations from JSON: what is wrong with a file is one line that names the file and the key."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from models.clap_text import ClapTextConfig
from models.errors import UserError
from models.saved_config import build_config, building, read_json
from models.text_encoder import TextEncoderConfig
from models.text_to_audio import TextToAudioConfig
from models.unet import UNetConfig
from models.vae import VAEConfig


def test_lists_optionals_and_dataclasses_are_filled():
    saved = {"unet": {"widths": [32], "factors": [1], "attention_depths": [0]}, "queues": [{"num_chunks": 4}]}
    config = build_config(TextToAudioConfig, saved | {"known_seconds": 3}, "here")
    assert config.unet == UNetConfig(widths=(32,), factors=(1,), attention_depths=(0,))
    assert config.queues[0].num_chunks == 4
    assert config.known_seconds == 3.0
    assert build_config(TextEncoderConfig, {"clap": {}, "t5": None}, "here").clap == ClapTextConfig()


@pytest.mark.parametrize(
    ("cls", "saved", "message"),
    [
        (UNetConfig, {"widhts": [1]}, "here: unknown key 'widhts', expected some of latent_channels, widths"),
        (UNetConfig, {"num_blocks": "2"}, 'here: num_blocks must be a whole number, got "2"'),
        (UNetConfig, {"num_blocks": True}, "here: num_blocks must be a whole number, got true"),
        (UNetConfig, {"num_blocks": 2.5}, "here: num_blocks must be a whole number, got 2.5"),
        (UNetConfig, {"num_blocks": 10**20}, "here: num_blocks must be a whole number, got 1000"),
        (UNetConfig, {"num_blocks": 10**7}, r"here: num_blocks must be in \[1, "),
        (UNetConfig, {"widths": 3}, "here: widths must be a list, got 3"),
        (UNetConfig, {"widths": [None]}, r"here: widths\[0\] must be a whole number, got null"),
        (UNetConfig, {"norm": "batch"}, 'here: norm must be one of group, layer, got "batch"'),
        (UNetConfig, [], r"here: the entry must be an object, got \[\]"),
        (VAEConfig, {"waveform": {"decoder_width": 3}}, "here: waveform: decoder_width must halve"),
        (TextToAudioConfig, {"known_seconds": float("nan")}, "known_seconds must be a number, got NaN"),
        (TextToAudioConfig, {"queues": []}, "here: queues must name at least one"),
        (TextEncoderConfig, {"clap": {"width": None}}, "here: clap.width must be a whole number, got null"),
    ],
)
def test_what_does_not_fit_is_named(cls: type, saved: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        build_config(cls, saved, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000, b'{"a": ' * 100_000, b"\xff\xfe", b'"text"'])
def test_a_file_that_is_no_json_object_is_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json (is not valid JSON|must hold a JSON object)") as caught:
        read_json(path)
    assert len(str(caught.value)) < 500


def test_what_no_network_can_be_built_from_is_one_line():
    with pytest.raises(UserError, match=r"here: no network has these sizes \(b\)"), building("here"):
        raise RuntimeError("b\nc")
    with pytest.raises(UserError, match=r"^here: mine$"), building("here"):
        raise UserError("mine")


VALUES: list[Any] = [None, True, -1, 0, 1, 2.5, 1e300, 10**30, "x", "", [], [0], [-1, "a"], {}, {"a": 1}, [[1]]]


def damaged(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one place of it replaced, removed, added or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        kind = rng.choice(("inside", "inside", "inside", "remove", "rename"))
        if kind == "inside":
            return value | {key: damaged(value[key], rng)}
        rest = {name: each for name, each in value.items() if name != key}
        return rest if kind == "remove" else rest | {key + "x": value[key]}
    if isinstance(value, list) and value and rng.random() < 0.5:
        index = rng.randrange(len(value))
        return [*value[:index], damaged(value[index], rng), *value[index + 1 :]]
    return rng.choice(VALUES)


def test_damaged_configurations_are_one_line_or_load(tmp_path: Path):
    """Random damage to the configurations of a whole model: either it is harmless, or one line tells of it."""
    from models.text_to_audio import TextToAudio
    from tests.models.test_text_to_audio import CONDITIONER, UNET, build_text_encoder, build_vae

    config = TextToAudioConfig(unet=UNET, conditioner=CONDITIONER)
    TextToAudio(config, build_vae(), build_text_encoder()).save(tmp_path)
    path, rng = tmp_path / "config.json", random.Random(0)
    original, errors = json.loads(path.read_text()), []
    for _ in range(150):
        path.write_text(json.dumps(damaged(original, rng)))
        try:
            TextToAudio.load(tmp_path)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 75
    assert not [error for error in errors if "\n" in error or str(tmp_path) not in error]
