"""Steering: each frame takes the prediction of its own text, and one text alone is the ordinary guided denoiser."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from infer.fifo.cues import Cue, CueSheet
from infer.fifo.steering import Steering, blend_tokens
from infer.guidance import GuidanceConfig, prompt_denoiser
from models.text_to_audio import TextToAudio

RAIN, CLOCK = "heavy rain with distant thunder", "a clock ticks"
QUEUE = 16


def steering(model: TextToAudio, *cues: Cue, guidance: GuidanceConfig | None = None, **options) -> Steering:
    sheet = CueSheet(RAIN, 4, QUEUE)
    for cue in cues:
        sheet.add(cue, 0, 0)
    guidance = guidance or GuidanceConfig(scale=3.0, rescale=0.5)
    return Steering(model, model.unet, sheet, lambda _: (None, None), guidance, frames_per_second=43.0, **options)


@pytest.fixture
def window() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    t = torch.cat((torch.zeros(8), torch.linspace(0.1, 1, QUEUE)))
    return torch.randn(2, 4, 8 + QUEUE, generator=generator), t.expand(2, -1)


@pytest.mark.parametrize(
    "guidance",
    [GuidanceConfig(scale=3.0, rescale=0.5), GuidanceConfig(scale=1.0), GuidanceConfig(scale=4.0, interval=(0.2, 0.7))],
)
@pytest.mark.parametrize("negative", [None, CLOCK])
def test_one_text_is_the_guided_denoiser(tiny_model: TextToAudio, window, guidance: GuidanceConfig, negative):
    steered = steering(tiny_model, guidance=guidance, negative_prompt=negative)
    expected = prompt_denoiser(tiny_model, [RAIN] * 2, guidance, negative_prompt=negative)
    assert torch.allclose(steered(*window), expected(*window), atol=1e-6)


def test_bound_frames_take_the_prediction_of_their_own_text(tiny_model: TextToAudio, window):
    steered = steering(tiny_model, Cue(10, CLOCK, "bind"))
    steered.move_to(4, 8)  # 8 frames of context, then frames 4 ... 19 of the stream
    rain, clock = (prompt_denoiser(tiny_model, [text] * 2, steered.guidance)(*window) for text in (RAIN, CLOCK))
    v = steered(*window)
    assert torch.allclose(v[..., : 8 + 6], rain[..., : 8 + 6], atol=1e-5)
    assert torch.allclose(v[..., 8 + 6 :], clock[..., 8 + 6 :], atol=1e-5)
    assert not torch.allclose(rain, clock, atol=1e-2)
    short = window[0][..., :12], window[1][..., :12]  # as long as the queue grows
    assert steered(*short).shape == (2, 4, 12)


def test_the_network_runs_once_per_text_and_only_while_there_are_two(tiny_model: TextToAudio, window):
    steered = steering(tiny_model, Cue(10, CLOCK, "bind"))
    rows = []

    def network(latents: Tensor, t: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        rows.append(len(latents) // 2)
        return tiny_model.unet(latents, t, context, mask)

    steered.network = network
    for front in (0, 8, 12):
        steered.move_to(front, 8)
        steered(*window)
    assert rows == [3, 3, 2]


def test_changes_under_way_are_reported_and_planned_ones_are_not(tiny_model: TextToAudio):
    planned = steering(tiny_model, Cue(30, CLOCK, "bind"))
    assert not any(planned.move_to(front, 0) for front in range(0, 60, 4))
    switched = steering(tiny_model, Cue(30, CLOCK, "switch"))
    assert [front for front in range(0, 60, 4) if switched.move_to(front, 0)] == [28]
    late = steering(tiny_model)
    late.move_to(0, 0)
    late.cues.add(Cue(10, CLOCK, "bind"), 4, 16)
    assert [front for front in (4, 8, 12) if late.move_to(front, 0)] == [4]


def test_a_glide_passes_between_the_two_texts(tiny_model: TextToAudio, window):
    steered = steering(tiny_model, Cue(0, CLOCK, "glide", 16))
    ends = [prompt_denoiser(tiny_model, [text] * 2, steered.guidance)(*window) for text in (RAIN, CLOCK)]
    way = []
    for front in (0, 4, 8, 12, 16):
        steered.move_to(front, 8)
        way.append(steered(*window))
    assert torch.allclose(way[0], ends[0], atol=1e-5)
    assert torch.allclose(way[-1], ends[1], atol=1e-5)
    whole = (ends[1] - ends[0]).norm()
    steps = [(after - before).norm() / whole for before, after in pairwise(way)]
    assert max(steps) < 1.0
    assert min(steps) > 0


def test_blended_tokens_keep_the_ends_and_the_norms():
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(1, 4, 32, generator=generator), 3 * torch.randn(1, 6, 32, generator=generator)
    assert torch.equal(blend_tokens(start, end, 0.0), start)
    assert torch.equal(blend_tokens(start, end, 1.0), end)
    halfway = blend_tokens(start, end, 0.5)
    assert halfway.shape == end.shape
    norms = [tokens.norm(dim=-1) for tokens in (start[:, [0, 0, 1, 2, 2, 3]], halfway, end)]
    assert torch.allclose(norms[1], (norms[0] + norms[2]) / 2, rtol=1e-4)
    same = blend_tokens(start, start, 0.3)
    assert torch.allclose(same, start, atol=1e-3)


def test_guidance_of_each_slot(tiny_model: TextToAudio, window):
    x, t = window
    weak, strong = (prompt_denoiser(tiny_model, [RAIN] * 2, GuidanceConfig(scale=scale))(x, t) for scale in (1.0, 5.0))
    v = steering(tiny_model, guidance=GuidanceConfig(scale=5.0), clean_scale=1.0)(x, t)
    assert torch.allclose(v, torch.lerp(weak, strong, t[:, None]), atol=1e-4)
