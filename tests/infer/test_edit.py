"""Variation and inpainting: what changes, what stays, and the options of the command."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from data.audio_writer import write_audio
from data.cli import run
from infer import generate as generate_command
from infer.edit import make_edit
from infer.generate import generate
from infer.guidance import GuidanceConfig
from models.text_to_audio import TextToAudio

SECONDS = 16 * 1024 / 44_100
HOP = 1024


@pytest.fixture(scope="module")
def sound() -> Tensor:
    return 0.3 * torch.randn(2, 16 * HOP, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)


def make(model: TextToAudio, sound: Tensor | None, **options) -> Tensor:
    edit = None if sound is None else make_edit(model, sound, SECONDS, **options)
    guidance = GuidanceConfig(scale=2.0, rescale=0.0)
    return generate(model, ["heavy rain"] * 2, seconds=SECONDS, seeds=[3, 4], guidance=guidance, num_steps=4, edit=edit)


def test_full_strength_is_ordinary_sampling(tiny_model: TextToAudio, sound: Tensor):
    torch.testing.assert_close(make(tiny_model, sound, strength=1.0), make(tiny_model, None), atol=1e-5, rtol=0)


def test_less_strength_stays_closer(tiny_model: TextToAudio, sound: Tensor):
    with torch.no_grad():
        reconstruction = tiny_model.vae.decode(tiny_model.vae.encode(sound[None]))
    near, middle, far = (
        float((make(tiny_model, sound, strength=s)[..., :-882] - reconstruction[..., :-882]).square().mean())
        for s in (0.02, 0.4, 1.0)
    )
    assert near < 0.1 * middle < 0.1 * far


def test_inpainting_keeps_every_sample_outside_of_the_span(tiny_model: TextToAudio, sound: Tensor):
    start, end = 5 * HOP / 44_100, 9 * HOP / 44_100
    clips = make(tiny_model, sound, inpaint=(start, end))
    first, last = 5 * HOP, 9 * HOP
    for clip in clips:
        assert torch.equal(clip[:, :first], sound[:, :first])
        assert torch.equal(clip[:, last:-882], sound[:, last:-882])
        assert (clip[:, first + HOP : last - HOP] - sound[:, first + HOP : last - HOP]).abs().mean() > 0.05
    assert not torch.allclose(clips[0], clips[1], atol=1e-3)


def test_the_network_sees_kept_frames_clean_and_at_time_zero(tiny_model: TextToAudio, sound: Tensor):
    edit = make_edit(tiny_model, sound, SECONDS, (0.0, 4 * HOP / 44_100))
    seen = []
    denoiser = edit.wrap(lambda x, t: seen.append((x, t)) or x)
    denoiser(torch.zeros(1, 4, 16), torch.full((1, 16), 0.5))
    (x, t), clean = seen[0], edit.latents
    assert torch.equal(t[0], torch.tensor([0.5] * 4 + [0.0] * 12))
    assert torch.equal(x[..., 4:], clean[..., 4:])
    assert not x[..., :4].any()


@pytest.mark.parametrize("span", [(-0.1, 0.2), (0.2, 0.2), (0.1, 9.0)])
def test_a_span_outside_of_the_clip_is_refused(tiny_model: TextToAudio, sound: Tensor, span: tuple[float, float]):
    with pytest.raises(ValueError, match="inpaint must be a start and an end within"):
        make_edit(tiny_model, sound, SECONDS, span)


@pytest.mark.parametrize("strength", [0.0, 1.5, float("nan")])
def test_a_strength_that_is_none_is_refused(tiny_model: TextToAudio, sound: Tensor, strength: float):
    with pytest.raises(ValueError, match="strength must lie above 0"):
        make_edit(tiny_model, sound, SECONDS, strength=strength)


def command(*options: str) -> None:
    run(generate_command.main, argv=generate_command.join_span(["--num_steps", "2", *options]))


@pytest.mark.parametrize("form", ["0,{}", "[0, {}]", "[0,|{}]", "0|{}"])
def test_the_command_inpaints_a_file(form: str, tiny_folder: Path, tmp_path: Path, sound: Tensor):
    write_audio(tmp_path / "in.wav", sound, encoding="float32")
    span, out = form.format(4 * HOP / 44_100).split("|"), tmp_path / "out.wav"
    options = ["--prompt", "a clock", "--model", str(tiny_folder), "--out", str(out)]
    command(*options, "--init_audio", str(tmp_path / "in.wav"), "--inpaint", *span)
    audio, _ = soundfile.read(out)
    assert audio.shape == (16 * HOP, 2)
    assert np.allclose(audio[4 * HOP : -882], sound.T[4 * HOP : -882], atol=1e-3)


def test_prompts_from_a_file(tiny_folder: Path, tmp_path: Path):
    # a byte order mark, and a line separator that is a part of its line
    (tmp_path / "prompts.txt").write_text("\ufeffheavy rain\r\n\na clock\u2028ticks\nheavy rain\n", encoding="utf-8")
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--model", str(tiny_folder), "--seconds", "0.2"]
    command(*options, "--out", str(tmp_path))
    names = ["0000-heavy-rain-0.wav", "0001-a-clock-ticks-0.wav", "0002-heavy-rain-0.wav"]
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == names
    rain, clock, again = (soundfile.read(tmp_path / name)[0] for name in names)
    assert np.allclose(rain, again, atol=1e-4)
    assert not np.allclose(rain, clock, atol=1e-3)


def test_user_errors_are_one_line(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
    model = ["--model", str(tiny_folder)]
    cases = {
        "give either --prompt": [],
        "or --prompts FILE": ["--prompt", "rain", "--prompts", str(tmp_path / "empty.txt")],
        "holds no prompt": ["--prompts", str(tmp_path / "empty.txt")],
        "give it with --init_audio": ["--prompt", "rain", "--strength", "0.5"],
        "as in --inpaint 1.5,3, got 'soon'": ["--prompt", "rain", "--inpaint", "soon"],
        "a start and an end of the clip, got 3 and 1": ["--prompt", "rain", "--inpaint", "3,1"],
        "strength must lie above 0": ["--prompt", "rain", "--strength", "2"],
        "at least 0.05": ["--prompt", "rain", "--seconds", "0.00002"],
        "is not utf-8 text": ["--prompts", str(tmp_path / "latin.txt")],
        "none.wav": ["--prompt", "rain", "--init_audio", str(tmp_path / "none.wav")],
    }
    for message, options in cases.items():
        with pytest.raises(SystemExit) as stop:
            command(*model, *options)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in error
        assert "Traceback" not in error
