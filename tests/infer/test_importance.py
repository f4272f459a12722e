"""Attention over the queue: the explicit weights are those of the fused attention, the sums are the formula's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import infer.fifo.__main__ as fifo_command
from data.cli import run
from infer import importance
from infer.fifo import QueueOptions, StreamConfig
from infer.fifo.config import recommended_focus
from infer.guidance import GuidanceConfig
from infer.importance import LayerAttention, attention_weights, measure, recorded, report
from models.text_to_audio import TextToAudio
from models.unet_layers import SelfAttention, key_mask, merge_heads, rotary_angles

CONFIG = StreamConfig(
    queue=QueueOptions(context_frames=8, chunk_frames=4, num_chunks=6, steps_per_shift=2),
    guidance=GuidanceConfig(scale=2.0),
)


@pytest.mark.parametrize("masked", [False, True])
def test_explicit_weights_are_those_of_the_fused_attention(masked: bool):
    torch.manual_seed(0)
    attention = SelfAttention(32, 4)
    x, rotary = torch.randn(2, 10, 32), rotary_angles(10, 8, torch.device("cpu"))
    keys = key_mask(torch.arange(10)[None].expand(2, -1) < torch.tensor([[7], [10]])) if masked else None
    weights = attention_weights(attention, x, rotary, keys)
    assert weights.shape == (2, 4, 10, 10)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 10))
    values = attention.project(x, rotary)[2]
    assert torch.allclose(attention.to_out(merge_heads(weights @ values)), attention(x, rotary, keys), atol=1e-5)
    if masked:
        assert (weights[0, :, :, 7:] == 0).all()


def layer(stride: int, slots: int) -> LayerAttention:
    return LayerAttention("test", stride, torch.zeros(slots, slots).double(), torch.zeros(3).double())


def test_scores_are_the_formulas():
    """Two frames of context, six of queue in three slots; keys of two frames: one of context, three of queue."""
    t = torch.tensor([0, 0, 0.2, 0.2, 0.3, 0.3, 0.9, 0.9])
    weights = torch.tensor([[0.4, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.25, 0.25], [0.2, 0.6, 0.1, 0.1]])
    measured = layer(2, 3)
    measured.add(weights, t, num_context=2, slots=3)
    assert torch.allclose(measured.map.float(), weights[1:, 1:])
    queue = weights[1:, 1:].mean(dim=0)  # over the queries of the queue
    assert torch.allclose(measured.regions.float(), torch.tensor([(queue[0] + queue[1]) / 2, 0.0, queue[2]]))


def test_fine_keys_are_averaged_within_their_slot():
    t = torch.linspace(0.1, 1, 6)
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    measured = layer(1, 3)
    measured.add(weights, t, num_context=0, slots=3)
    expected = weights.unflatten(0, (3, 2)).unflatten(2, (3, 2)).mean(dim=(1, 3))
    assert torch.allclose(measured.map.float(), expected)
    assert torch.allclose(measured.regions.float(), weights.mean(dim=0).unflatten(0, (3, 2)).mean(dim=1))


def test_recording_sees_every_call_and_changes_none(tiny_model: TextToAudio):
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, 32)[None]
    context = tiny_model.condition(["rain"])
    arguments = x, t, context.context, context.context_mask
    plain = tiny_model.unet(*arguments)
    with recorded(tiny_model.unet, 8, 6) as layers:
        watched = tiny_model.unet(*arguments)
        tiny_model.unet(*arguments)
    tiny_model.unet(*arguments)
    assert torch.equal(plain, watched)
    assert [(seen.name, seen.stride, seen.num_calls) for seen in layers] == [("level 2, block 1", 2, 2)]


def looking_at(region: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the explicit path see attention to the keys of one third of the window alone."""

    def weights(attention: SelfAttention, x: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor | None) -> Tensor:
        del attention, rotary, keys
        length = x.shape[1]
        place = (torch.arange(length) - 4) * 3 // (length - 4)  # 8 frames of context are 4 keys
        return (place == region).double().expand(1, 1, length, length) * 0.9 / length + 0.1 / length

    monkeypatch.setattr(importance, "attention_weights", weights)


@pytest.mark.parametrize(("region", "focus"), [(0, "last"), (1, "middle"), (2, "initial")])
def test_the_region_looked_at_is_recommended(tiny_model: TextToAudio, monkeypatch, region: int, focus: str):
    looking_at(region, monkeypatch)
    values = report(measure(tiny_model, ("rain", "wind"), CONFIG, 2))
    assert values["focus"] == focus
    assert values["margin"] > 2
    assert max(range(6), key=values["slots"].__getitem__) // 2 == region
    assert values["layers"][0]["stride_frames"] == 2


def test_command_writes_picture_numbers_and_recommendation(tiny_folder: Path, tmp_path: Path):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_folder, model)
    with pytest.raises(ValueError, match="no recommended focus, run: python"):
        recommended_focus(model)
    queue = ["--queue.context_frames", "8", "--queue.chunk_frames", "4", "--queue.num_chunks", "4"]
    options = ["--model", str(model), "--out", str(out), "--num_shifts", "1", "--prompts", '["rain"]', *queue]
    run(importance.main, argv=[*options, "--write", "false"])
    assert (out / "importance.png").read_bytes()[:4] == b"\x89PNG"
    values = json.loads((out / "importance.json").read_text())
    assert len(values["map"]) == len(values["slots"]) == 4
    assert sum(values["regions"].values()) == pytest.approx(3)
    with pytest.raises(ValueError, match="no recommended focus"):
        recommended_focus(model)
    run(importance.main, argv=options)
    assert recommended_focus(model) == values["focus"]
    sounds = []
    for focus in ("auto", values["focus"]):
        path = tmp_path / f"{focus}.wav"
        argv = ["--prompt", "rain", "--model", str(model), "--out", str(path), "--seconds", "0.3"]
        small = ["--queue.num_chunks", "3", "--queue.chunk_frames", "8", "--queue.steps_per_shift", "1"]
        run(fifo_command.main, argv=[*argv, *small, "--sampling.focus", focus])
        sounds.append(path.read_bytes())
    assert sounds[0] == sounds[1]
