"""Streams that stop and go on: sample for sample what one gives that never stopped; damaged files are named."""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infer.fifo import EndlessStream, QueueOptions, StreamConfig
from infer.fifo.guard import GuardConfig
from infer.fifo.state import check_state_file, load_stream, save_stream
from infer.fifo.timing import StreamTiming
from infer.guidance import GuidanceConfig
from infer.samplers import SamplingConfig
from models.text_to_audio import TextToAudio
from tests.infer.conftest import make_tiny_model

CONFIG = StreamConfig(
    queue=QueueOptions(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1),
    guidance=GuidanceConfig(scale=2.0),
)
CONFIGS = {
    "plain": CONFIG,
    "noise": replace(CONFIG, sampling=SamplingConfig(sampler="dpmpp_2m_sde", eta=1.0)),
    "guard": replace(CONFIG, guard=GuardConfig(pull=0.5, mean_zone=0.1, average_seconds=0.2, beginning_seconds=0.2)),
    "ending": replace(CONFIG, seconds=1.9, timing=StreamTiming(ending=True)),
    "fifo-diffusion": replace(CONFIG, method="fifo-diffusion"),
    "opening": CONFIG,
    "batch": CONFIG,
}


def begin(model: TextToAudio, name: str) -> EndlessStream:
    time = torch.arange(30_000) / 44_100
    sound = torch.sin(900 * time).expand(2, -1) if name == "opening" else None
    prompts = ["heavy rain", "wind"] if name == "batch" else "heavy rain"
    return EndlessStream(model, prompts, CONFIGS[name], init_audio=sound)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stop", [0.31, 0.9])
def test_saved_and_taken_up_again(tiny_model: TextToAudio, tmp_path: Path, name: str, stop: float):
    def cued() -> EndlessStream:
        stream = begin(tiny_model, name)
        stream.cue(0.5, "a clock ticks", "glide", glide_seconds=0.5)
        stream.cue(1.3, "thunder", "bind", stream=stream.batch - 1)
        return stream

    whole = cued().read(2.0)
    first = cued()
    start = first.read(stop)
    save_stream(tmp_path / "stream.pt", first)
    first.read(0.2)  # what the first does later is its own business
    second = load_stream(tmp_path / "stream.pt", tiny_model)
    assert second.seconds == pytest.approx(stop)
    rest = second.read(2.0 - stop)
    assert torch.equal(torch.cat((start, rest), dim=-1), whole)
    assert list(tmp_path.iterdir()) == [tmp_path / "stream.pt"]


@pytest.mark.parametrize("mode", ["switch", "bind", "glide"])
@pytest.mark.parametrize("stop_before", [0, 1, 2])
def test_saved_at_any_chunk_around_a_cue(tiny_model: TextToAudio, tmp_path: Path, mode, stop_before: int):
    """Also just before a cue acts, where the sampler's history is dropped as the text changes."""

    def cued() -> EndlessStream:
        stream = EndlessStream(tiny_model, "heavy rain", CONFIG)
        stream.cue(24 * 1024 / 44_100, "a clock ticks", mode, 0.3)  # the first frame of the seventh chunk
        return stream

    whole = torch.cat([cued_chunk for _, cued_chunk in zip(range(12), latents(cued()), strict=False)], dim=-1)
    first = cued()
    before = [first.next_latents() for _ in range(7 - stop_before)]
    save_stream(tmp_path / "stream.pt", first)
    second = load_stream(tmp_path / "stream.pt", tiny_model)
    after = [second.next_latents() for _ in range(5 + stop_before)]
    assert torch.equal(torch.cat((*before, *after), dim=-1), whole)


def latents(stream: EndlessStream):
    while True:
        yield stream.next_latents()


def test_saved_while_a_cue_rules_that_is_not_over(tiny_model: TextToAudio, tmp_path: Path):
    """The guard must not take the text that is heard already for a new one."""
    config = replace(CONFIG, guard=CONFIGS["guard"].guard)

    def cued() -> EndlessStream:
        stream = EndlessStream(tiny_model, "heavy rain", config)
        stream.cue(0.3, "a clock ticks", "glide", 1.5)
        return stream

    whole = cued()
    expected = torch.cat([whole.next_latents() for _ in range(20)], dim=-1)
    first = cued()
    before = [first.next_latents() for _ in range(9)]
    save_stream(tmp_path / "stream.pt", first)
    second = load_stream(tmp_path / "stream.pt", tiny_model)
    assert torch.equal(torch.cat([*before, *(second.next_latents() for _ in range(11))], dim=-1), expected)


def test_what_is_no_state_is_refused(tiny_model: TextToAudio, tmp_path: Path):
    (tmp_path / "text.pt").write_text("not a state")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"format": 1, "model": {}, "stream": {}}, tmp_path / "old.pt")
    save_stream(tmp_path / "good.pt", EndlessStream(tiny_model, "rain", CONFIG))
    good = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(good[:-100])
    (tmp_path / "newer.pt").write_bytes(good.replace(b"stream 2 ", b"stream 3 ", 1))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(flipped)
    for file, message in (
        ("text.pt", "not the state of a stream"),
        ("empty.pt", "not the state of a stream"),
        ("old.pt", "saved by an older version"),
        ("newer.pt", "has format 3, this version reads 2"),
        ("cut.pt", "is damaged"),
        ("flipped.pt", "is damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            load_stream(tmp_path / file, tiny_model)
    with pytest.raises(FileNotFoundError):
        load_stream(tmp_path / "missing.pt", tiny_model)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_stream(tmp_path / "no" / "a.pt", EndlessStream(tiny_model, "rain", CONFIG))
    assert zipfile.is_zipfile(tmp_path / "old.pt")  # what torch.save wrote before


@pytest.mark.parametrize("missing", ["fifo", "cues", "config", "num_made"])
def test_a_state_that_lacks_a_part_is_refused(tiny_model: TextToAudio, tmp_path: Path, missing: str):
    stream = EndlessStream(tiny_model, "rain", CONFIG)
    state = stream.state_dict()
    del state[missing]
    buffer = io.BytesIO()
    torch.save({"model": tiny_model.fingerprint(), "stream": state}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "a.pt").write_bytes(f"endless-audio stream 2 {digest}\n".encode() + buffer.getvalue())
    with pytest.raises(ValueError, match=f"does not hold the whole state of a stream: KeyError '{missing}'"):
        load_stream(tmp_path / "a.pt", tiny_model)


def test_other_weights_of_the_same_shape_are_refused(tiny_model: TextToAudio, tmp_path: Path):
    save_stream(tmp_path / "a.pt", EndlessStream(tiny_model, "rain", CONFIG))
    other = make_tiny_model()
    other.unet.conv_out.weight.data[0] += 1e-3
    with pytest.raises(ValueError, match="of another model"):
        load_stream(tmp_path / "a.pt", other)


def test_a_chunk_broken_off_half_way_leaves_no_state(tiny_model: TextToAudio, monkeypatch):
    stream = EndlessStream(tiny_model, "rain", CONFIG)

    def broken(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "next_latents", broken)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(ValueError, match="middle of a chunk"):
        stream.state_dict()


def test_whether_a_state_can_be_written_is_found_out_before(tiny_model: TextToAudio, tmp_path: Path):
    check_state_file(tmp_path / "a.pt", EndlessStream(tiny_model, "rain", CONFIG))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is a folder"):
        check_state_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_state_file(tmp_path / "no" / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"exists already: .*--overwrite"):
        check_state_file(tmp_path / "a.pt")
    check_state_file(tmp_path / "a.pt", overwrite=True)
