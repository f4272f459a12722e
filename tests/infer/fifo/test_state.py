"""Streams that stop and go on: sample for sample what one gives that never stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infer.fifo import EndlessStream, FifoConfig, StreamConfig
from infer.fifo.guards import GuardConfig
from infer.fifo.state import load_stream, save_stream
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from models.text_to_audio import TextToAudio

CONFIG = StreamConfig(
    fifo=FifoConfig(context=8, chunk=4, num_chunks=4, micro_steps=1), guidance=GuidanceConfig(scale=2.0)
)
CONFIGS = {
    "plain": CONFIG,
    "noise": replace(CONFIG, fifo=replace(CONFIG.fifo, sampler="dpmpp_2m_sde", eta=1.0, context_noise=0.1, sink=2)),
    "guards": replace(CONFIG, guards=GuardConfig(pull=0.5, mean_zone=0.1, renoise=True, renoise_below=9, seconds=0.2)),
    "ending": replace(CONFIG, seconds=1.9, timing=StreamTiming(ending=True)),
    "clip": replace(CONFIG, start="clip", partition_frames=8, lookahead=True, clean_scale=1.5),
    "crossfade": replace(CONFIG, method="crossfade", crossfade_seconds=0.2),
    "opening": CONFIG,
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stop", [0.31, 0.9])
def test_saved_and_taken_up_again(tiny_model: TextToAudio, tmp_path: Path, monkeypatch, name: str, stop: float):
    monkeypatch.setattr(tiny_model, "config", replace(tiny_model.config, window_frames=24))
    time = torch.arange(30_000) / 44_100
    sound = torch.sin(900 * time).expand(2, -1) if name == "opening" else None

    def begin() -> EndlessStream:
        stream = EndlessStream(tiny_model, "heavy rain", CONFIGS[name], init_audio=sound)
        stream.cue(0.5, "a clock ticks", "glide", glide_seconds=0.5)
        stream.cue(1.3, "thunder", "bind")
        return stream

    whole = begin().read(2.0)
    first = begin()
    start = first.read(stop)
    save_stream(tmp_path / "stream.pt", first)
    first.read(0.2)  # what the first does later is its own business
    second = load_stream(tmp_path / "stream.pt", tiny_model)
    assert second.seconds == pytest.approx(stop)
    rest = second.read(2.0 - stop)
    assert torch.equal(torch.cat((start, rest), dim=-1), whole)
    assert list(tmp_path.iterdir()) == [tmp_path / "stream.pt"]


def test_what_is_no_state_is_refused(tiny_model: TextToAudio, tmp_path: Path):
    (tmp_path / "text.pt").write_text("not a state")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": 1, "model": {}, "stream": {}}, tmp_path / "other.pt")
    for file, message in (("text.pt", "not the state"), ("list.pt", "not the state"), ("other.pt", "another model")):
        with pytest.raises(ValueError, match=message):
            load_stream(tmp_path / file, tiny_model)
    with pytest.raises(FileNotFoundError):
        load_stream(tmp_path / "missing.pt", tiny_model)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_stream(tmp_path / "no" / "a.pt", EndlessStream(tiny_model, "rain", CONFIG))


def test_a_chunk_broken_off_half_way_leaves_no_state(tiny_model: TextToAudio, monkeypatch):
    stream = EndlessStream(tiny_model, "rain", CONFIG)

    def broken(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "next_latents", broken)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(ValueError, match="middle of a chunk"):
        stream.state_dict()
