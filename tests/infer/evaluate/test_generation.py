"""Clips for prompts: cached by everything they depend on, resumed, and streams cut from their beginning."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from infer.evaluate import generation
from infer.evaluate.generation import GenerationConfig, Request, clip_path, make_clips, read_clip
from infer.fifo import EndlessStream, QueueOptions, StreamConfig
from infer.fifo.__main__ import main as fifo_command
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from models.text_to_audio import TextToAudio

REQUESTS = [Request(prompt=text, seed=seed, seconds=0.5) for seed, text in enumerate(("rain", "wind", "a clock"))]

QUEUE = QueueOptions(context_frames=8, chunk_frames=8, num_chunks=2, steps_per_shift=1)


@pytest.fixture
def config(tiny_folder: Path) -> GenerationConfig:
    return GenerationConfig(model=tiny_folder, num_steps=2, batch_size=2, device="cpu")


def test_names_depend_on_what_the_sound_depends_on(config: GenerationConfig, tmp_path: Path):
    first = clip_path(tmp_path, config, REQUESTS[0])
    for same in (replace(config, batch_size=7), replace(config, processes=3), replace(config, skip_seconds=1.0)):
        assert clip_path(tmp_path, same, REQUESTS[0]) == first
    others = [
        replace(config, num_steps=3),
        replace(config, guidance=GuidanceConfig(scale=1.0)),
        replace(config, mode="fifo"),
    ]
    paths = [clip_path(tmp_path, other, REQUESTS[0]) for other in others]
    paths += [clip_path(tmp_path, config, replace(REQUESTS[0], seed=9)), clip_path(tmp_path, config, REQUESTS[1])]
    assert len({first, *paths}) == 6


def test_only_missing_clips_are_made(config: GenerationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = make_clips(tmp_path, config, REQUESTS)
    assert [read_clip(path).shape for path in paths] == [(2, 22_050)] * 3
    kept = read_clip(paths[1])
    for path in (paths[0], paths[2]):
        path.unlink()
    made: list[str] = []
    original = generation.generate

    def spy(model, prompts, **options):
        made.extend(prompts)
        return original(model, prompts, **options)

    monkeypatch.setattr(generation, "generate", spy)
    again = make_clips(tmp_path, config, REQUESTS)
    assert made == ["rain", "a clock"]
    assert torch.equal(read_clip(again[1]), kept)
    make_clips(tmp_path, config, REQUESTS)
    assert len(made) == 2
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_two_processes_make_the_same_clips(config: GenerationConfig, tmp_path: Path):
    alone = make_clips(tmp_path / "one", config, REQUESTS[:2])
    spread = make_clips(tmp_path / "two", replace(config, processes=2), REQUESTS[:2])
    for first, second in zip(alone, spread, strict=True):
        torch.testing.assert_close(read_clip(first), read_clip(second), atol=2e-3, rtol=0)


def test_streams_begin_after_what_is_skipped(config: GenerationConfig, tmp_path: Path):
    whole = replace(config, mode="fifo", stream=StreamConfig(queue=QUEUE))
    skipped = replace(whole, skip_seconds=0.25)
    long = read_clip(make_clips(tmp_path, whole, [replace(REQUESTS[0], seconds=0.75)])[0])
    late = read_clip(make_clips(tmp_path, skipped, REQUESTS[:1])[0])
    assert late.shape == (2, 22_050)
    torch.testing.assert_close(late, long[:, 11_025:], atol=1e-4, rtol=0)
    pair = [read_clip(path) for path in make_clips(tmp_path / "b", whole, [REQUESTS[0], REQUESTS[1]])]
    torch.testing.assert_close(pair[0][:, :20_000], long[:, :20_000], atol=1e-3, rtol=0)
    assert not torch.allclose(pair[0], pair[1], atol=1e-2)


@pytest.mark.parametrize("mode", ["steady", "null"])
def test_streams_are_those_of_infer_fifo(
    config: GenerationConfig, tiny_model: TextToAudio, tmp_path: Path, mode: Literal["steady", "null"]
):
    stream = StreamConfig(queue=QUEUE, timing=StreamTiming(mode=mode))
    got = read_clip(make_clips(tmp_path, replace(config, mode="fifo", stream=stream), REQUESTS[:1])[0])
    expected = EndlessStream(tiny_model, "rain", stream).read(0.5)[0]
    torch.testing.assert_close(got[:, :-882], expected[:, :-882], atol=1e-4, rtol=0)  # but for the fade


def test_what_is_measured_is_what_the_command_plays(
    config: GenerationConfig, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Same defaults, guard and guidance; the samples of a file are those of another."""
    monkeypatch.chdir(tmp_path)
    got = read_clip(make_clips(tmp_path, replace(config, mode="fifo", batch_size=1), REQUESTS[:1])[0])
    fifo_command(prompt="rain", seconds=0.5, seed=0, out="rain.flac", model=str(tiny_folder), device="cpu")
    assert torch.equal(got, read_clip(tmp_path / "rain.flac"))


def test_a_clip_told_another_length_fills_the_window(config: GenerationConfig, tmp_path: Path):
    told = [replace(REQUESTS[0], seconds_total=total) for total in (1.0, 30.0)]
    first, second = (read_clip(path) for path in make_clips(tmp_path, config, told))
    assert first.shape == second.shape == (2, 22_050)
    assert not torch.allclose(first, second, atol=1e-3)


def test_bad_settings(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 1"):
        GenerationConfig(num_steps=0)
    with pytest.raises(ValueError, match="skip_seconds"):
        GenerationConfig(skip_seconds=-1.0)
    with pytest.raises(FileNotFoundError, match="no model"):
        make_clips(tmp_path, GenerationConfig(model=tmp_path), REQUESTS)
