"""From text to prediction: rows and weights, texts over frames, guidance, rescale, interval, negative prompts."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.guidance import GuidanceConfig, PromptDenoiser, guide, prompt_denoiser
from models.text_to_audio import Conditioning, TextToAudio
from models.texts import Blend, Text
from models.timing import Position

PROMPT, CLOCK = "heavy rain", "a clock ticks"
RAIN = "heavy rain with distant thunder"
UNKNOWN: Position = (None, None)


def scaled(scale: float, rescale: float = 0.0, **options: Any) -> GuidanceConfig:
    return GuidanceConfig(scale=scale, rescale=rescale, **options)


def noisy(batch: int = 1, frames: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 4, frames, generator=generator), torch.linspace(0.05, 1, frames).expand(batch, -1)


def plain(model: TextToAudio, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    with torch.no_grad():
        return model(x, t, conditioning)


def test_guidance_is_the_formula_over_two_separate_passes(tiny_model: TextToAudio):
    x, t = noisy(2)
    prompts = [PROMPT, CLOCK]
    v = prompt_denoiser(tiny_model, prompts, scaled(3.0))(x, t)
    conditional = plain(tiny_model, x, t, tiny_model.condition(prompts))
    unconditional = plain(tiny_model, x, t, tiny_model.null_condition(2))
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    assert torch.allclose(v, unconditional + 3 * (conditional - unconditional), atol=1e-4)


def test_scale_1_is_the_conditional_prediction_in_one_pass_of_half_the_batch(tiny_model: TextToAudio):
    x, t = noisy()
    batches = []
    hook = tiny_model.unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    v = prompt_denoiser(tiny_model, [PROMPT], scaled(1.0))(x, t)
    guided = prompt_denoiser(tiny_model, [PROMPT], scaled(2.0))(x, t)
    hook.remove()
    assert batches == [1, 2]
    assert torch.equal(v, plain(tiny_model, x, t, tiny_model.condition([PROMPT])))
    assert not torch.allclose(v, guided, atol=1e-3)


def test_scale_0_is_the_unconditional_prediction(tiny_model: TextToAudio):
    x, t = noisy()
    v = prompt_denoiser(tiny_model, [PROMPT], scaled(0.0))(x, t)
    assert torch.allclose(v, plain(tiny_model, x, t, tiny_model.null_condition(1)), atol=1e-5)


def test_a_negative_prompt_takes_the_place_of_the_null_sequence(tiny_model: TextToAudio):
    x, t = noisy()
    v = prompt_denoiser(tiny_model, [PROMPT], scaled(3.0, negative_prompt=CLOCK))(x, t)
    positive, negative = (plain(tiny_model, x, t, tiny_model.condition([p])) for p in (PROMPT, CLOCK))
    assert torch.allclose(v, negative + 3 * (positive - negative), atol=1e-4)
    same = prompt_denoiser(tiny_model, [PROMPT], scaled(3.0, negative_prompt=PROMPT))(x, t)
    assert torch.allclose(same, positive, atol=1e-4)


def test_timing_reaches_the_conditioning(tiny_model: TextToAudio):
    x, t = noisy()
    short = prompt_denoiser(tiny_model, [PROMPT], scaled(1.0), [(0.0, 2.0)])(x, t)
    assert torch.allclose(short, plain(tiny_model, x, t, tiny_model.condition([PROMPT], 0.0, 2.0)), atol=1e-6)
    assert not torch.allclose(short, prompt_denoiser(tiny_model, [PROMPT], scaled(1.0))(x, t), atol=1e-4)


def test_rescale_restores_the_standard_deviation_of_each_frame():
    conditional, unconditional = torch.randn(2, 2, 8, 5, generator=torch.Generator().manual_seed(1))
    guided = guide([conditional], unconditional, [6.0])
    full = guide([conditional], unconditional, [6.0], rescale=1.0)
    assert torch.allclose(full.std(dim=1), conditional.std(dim=1), atol=1e-5)
    assert torch.allclose(torch.cosine_similarity(full, guided, dim=1), torch.ones(2, 5), atol=1e-5)
    part = guide([conditional], unconditional, [6.0], rescale=0.3)
    assert torch.allclose(part, 0.3 * full + 0.7 * guided, atol=1e-5)


def test_rescale_treats_frames_alone():
    conditional, unconditional = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(1))
    whole = guide([conditional], unconditional, [4.0], 0.7)
    part = guide([conditional[..., :2]], unconditional[..., :2], [4.0], 0.7)
    assert torch.allclose(part, whole[..., :2])


def test_interval_acts_on_each_frame_by_its_own_noise_time(tiny_model: TextToAudio):
    x, t = noisy()
    everywhere = prompt_denoiser(tiny_model, [PROMPT], scaled(4.0))(x, t)
    conditional = prompt_denoiser(tiny_model, [PROMPT], scaled(1.0))(x, t)
    v = prompt_denoiser(tiny_model, [PROMPT], scaled(4.0, interval=(0.3, 0.7)))(x, t)
    inside = ((t >= 0.3) & (t <= 0.7)).unsqueeze(1).expand_as(v)
    assert inside.any()
    assert not inside.all()
    assert torch.allclose(v[inside], everywhere[inside], atol=1e-5)
    assert torch.allclose(v[~inside], conditional[~inside], atol=1e-5)


class DualHost:
    """A model with dual guidance around another: both conditions, the first alone, the second alone, neither."""

    def __init__(self, model: TextToAudio, second_scale: float):
        self.model = model
        self.second_scale = second_scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def rows(
        self, text: Text, position: Position, guidance_scale: float, content_scale: float
    ) -> list[tuple[Conditioning, float]]:
        del content_scale
        texts = (text, "first", "second")
        rows = [self.model.rows(part, position, 1.0)[0][0] for part in texts]
        return list(zip(rows, (1.0, guidance_scale, self.second_scale), strict=True))


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7)])
def test_dual_guidance_is_a_case_of_three_rows_and_a_null(tiny_model: TextToAudio, interval: tuple[float, float]):
    """VoiceLDM's n1 + w_d (n2 - n4) + w_c (n3 - n4): weights 1, w_d, w_c, and the null row takes 1 minus their sum."""
    x, t = noisy(2)
    host: Any = DualHost(tiny_model, 5.0)
    denoiser = prompt_denoiser(host, [PROMPT, CLOCK], scaled(7.0, interval=interval))
    v = denoiser(x, t)
    both = plain(tiny_model, x, t, tiny_model.condition([PROMPT, CLOCK]))
    first, second = (plain(tiny_model, x, t, tiny_model.condition([text] * 2)) for text in ("first", "second"))
    neither = plain(tiny_model, x, t, tiny_model.null_condition(2))
    expected = both + 7 * (first - neither) + 5 * (second - neither)
    inside = ((t >= interval[0]) & (t <= interval[1])).unsqueeze(1)
    assert torch.allclose(v, torch.where(inside, expected, both), atol=1e-4)
    denoiser.tell([[PROMPT] * 6 + [CLOCK] * 6, [CLOCK]], [UNKNOWN] * 2)
    mixed = denoiser(x, t)
    rain, clock = (prompt_denoiser(host, [text] * 2, denoiser.guidance)(x, t) for text in (PROMPT, CLOCK))
    assert torch.allclose(mixed[0, :, :6], rain[0, :, :6], atol=1e-4)
    assert torch.allclose(mixed[0, :, 6:], clock[0, :, 6:], atol=1e-4)
    assert torch.allclose(mixed[1], clock[1], atol=1e-4)


@pytest.mark.parametrize(
    "guidance", [scaled(3.0, 0.5), scaled(1.0), scaled(4.0, interval=(0.2, 0.7)), scaled(3.0, negative_prompt=CLOCK)]
)
def test_frames_take_the_prediction_of_their_own_text(tiny_model: TextToAudio, guidance: GuidanceConfig):
    x, t = noisy(2, 24)
    denoiser = PromptDenoiser(tiny_model, guidance)
    denoiser.tell([[RAIN] * 6 + [CLOCK] * 10, [CLOCK] * 16], [UNKNOWN] * 2, num_context=8)
    v = denoiser(x, t)
    rain, clock = (prompt_denoiser(tiny_model, [text] * 2, guidance)(x, t) for text in (RAIN, CLOCK))
    assert torch.allclose(v[0, :, : 8 + 6], rain[0, :, : 8 + 6], atol=1e-5)
    assert torch.allclose(v[0, :, 8 + 6 :], clock[0, :, 8 + 6 :], atol=1e-5)
    assert torch.allclose(v[1], clock[1], atol=1e-5)
    assert not torch.allclose(rain, clock, atol=1e-2)
    assert denoiser(x[..., :12], t[..., :12]).shape == (2, 4, 12)  # as long as the queue grows


def test_the_network_runs_once_per_text_and_only_while_there_are_two(tiny_model: TextToAudio):
    x, t = noisy(2, 16)
    rows = []

    def network(latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        rows.append(len(latents))
        return tiny_model.network(latents, t, conditioning)

    denoiser = PromptDenoiser(tiny_model, scaled(3.0), network)
    for texts in ([[RAIN], [RAIN]], [[RAIN] * 8 + [CLOCK] * 8, [RAIN] * 16], [[CLOCK], [RAIN]]):
        denoiser.tell(texts, [UNKNOWN] * 2)
        denoiser(x, t)
    assert rows == [4, 5, 4]


def test_a_blend_passes_between_its_texts(tiny_model: TextToAudio):
    x, t = noisy(1, 16)
    ends = [prompt_denoiser(tiny_model, [text], scaled(3.0))(x, t) for text in (RAIN, CLOCK)]
    denoiser = PromptDenoiser(tiny_model, scaled(3.0))
    way = []
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        denoiser.tell([[Blend(RAIN, CLOCK, weight)]], [UNKNOWN])
        way.append(denoiser(x, t))
    assert torch.allclose(way[0], ends[0], atol=1e-5)
    assert torch.allclose(way[-1], ends[1], atol=1e-5)
    whole = (ends[1] - ends[0]).norm()
    steps = [(after - before).norm() / whole for before, after in pairwise(way)]
    assert max(steps) < 1.0
    assert min(steps) > 0


def test_bad_settings_are_refused(tiny_model: TextToAudio):
    for scale in (-1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(ValueError, match="scale must"):
            GuidanceConfig(scale=scale)
    with pytest.raises(ValueError, match="rescale must lie"):
        GuidanceConfig(rescale=1.5)
    with pytest.raises(ValueError, match="interval must be"):
        GuidanceConfig(interval=(0.7, 0.3))
    for prompt in ("", "  \n"):
        with pytest.raises(ValueError, match="prompt is empty"):
            prompt_denoiser(tiny_model, [prompt], GuidanceConfig())
    with pytest.raises(ValueError, match="is no character"):
        prompt_denoiser(tiny_model, ["caf\udce9"], GuidanceConfig())
