"""Classifier-free guidance: one batched call, scale, rescale, interval, negative prompts."""

import pytest
import torch
from torch import Tensor

from infer.guidance import GuidanceConfig, GuidedDenoiser, guide, prompt_denoiser
from models.text_to_audio import Conditioning, TextToAudio

PROMPT = "heavy rain"


def noisy(batch: int = 1, frames: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 4, frames, generator=generator), torch.linspace(0.05, 1, frames).expand(batch, -1)


def plain(model: TextToAudio, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    with torch.no_grad():
        return model(x, t, conditioning)


def test_guidance_is_the_formula_over_two_separate_passes(tiny_model: TextToAudio):
    x, t = noisy(2)
    prompts = [PROMPT, "a clock ticks"]
    v = prompt_denoiser(tiny_model, prompts, GuidanceConfig(scale=3.0))(x, t)
    conditional = plain(tiny_model, x, t, tiny_model.condition(prompts))
    unconditional = plain(tiny_model, x, t, tiny_model.null_condition(2))
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    assert torch.allclose(v, unconditional + 3 * (conditional - unconditional), atol=1e-4)


def test_scale_1_is_the_conditional_prediction_in_one_pass_of_half_the_batch(tiny_model: TextToAudio):
    x, t = noisy()
    batches = []
    hook = tiny_model.unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    v = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=1.0))(x, t)
    guided = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=2.0))(x, t)
    hook.remove()
    assert batches == [1, 2]
    assert torch.equal(v, plain(tiny_model, x, t, tiny_model.condition([PROMPT])))
    assert not torch.allclose(v, guided, atol=1e-3)


def test_scale_0_is_the_unconditional_prediction(tiny_model: TextToAudio):
    x, t = noisy()
    v = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=0.0))(x, t)
    assert torch.allclose(v, plain(tiny_model, x, t, tiny_model.null_condition(1)), atol=1e-5)


def test_a_negative_prompt_takes_the_place_of_the_null_sequence(tiny_model: TextToAudio):
    x, t = noisy()
    config = GuidanceConfig(scale=3.0)
    v = prompt_denoiser(tiny_model, [PROMPT], config, negative_prompt="a clock ticks")(x, t)
    positive, negative = (plain(tiny_model, x, t, tiny_model.condition([p])) for p in (PROMPT, "a clock ticks"))
    assert torch.allclose(v, negative + 3 * (positive - negative), atol=1e-4)
    assert torch.allclose(
        prompt_denoiser(tiny_model, [PROMPT], config, negative_prompt=PROMPT)(x, t), positive, atol=1e-4
    )


def test_timing_reaches_the_conditioning(tiny_model: TextToAudio):
    x, t = noisy()
    config = GuidanceConfig(scale=1.0)
    short = prompt_denoiser(tiny_model, [PROMPT], config, seconds_start=0.0, seconds_total=2.0)(x, t)
    assert not torch.allclose(short, prompt_denoiser(tiny_model, [PROMPT], config)(x, t), atol=1e-4)


def test_rescale_restores_the_standard_deviation_of_each_frame():
    conditional, unconditional = torch.randn(2, 2, 8, 5, generator=torch.Generator().manual_seed(1))
    guided = guide(conditional, unconditional, 6.0)
    full = guide(conditional, unconditional, 6.0, rescale=1.0)
    assert torch.allclose(full.std(dim=1), conditional.std(dim=1), atol=1e-5)
    assert torch.allclose(torch.cosine_similarity(full, guided, dim=1), torch.ones(2, 5), atol=1e-5)
    assert torch.allclose(guide(conditional, unconditional, 6.0, rescale=0.3), 0.3 * full + 0.7 * guided, atol=1e-5)


def test_rescale_treats_frames_alone():
    conditional, unconditional = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(1))
    whole = guide(conditional, unconditional, 4.0, 0.7)
    assert torch.allclose(guide(conditional[..., :2], unconditional[..., :2], 4.0, 0.7), whole[..., :2])


def test_interval_acts_on_each_frame_by_its_own_noise_time(tiny_model: TextToAudio):
    x, t = noisy()
    everywhere = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=4.0))(x, t)
    conditional = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=1.0))(x, t)
    v = prompt_denoiser(tiny_model, [PROMPT], GuidanceConfig(scale=4.0, interval=(0.3, 0.7)))(x, t)
    inside = ((t >= 0.3) & (t <= 0.7)).unsqueeze(1).expand_as(v)
    assert inside.any()
    assert not inside.all()
    assert torch.allclose(v[inside], everywhere[inside], atol=1e-5)
    assert torch.allclose(v[~inside], conditional[~inside], atol=1e-5)


def test_a_scale_for_each_frame(tiny_model: TextToAudio):
    x, t = noisy(2)
    conditional, unconditional = tiny_model.condition([PROMPT] * 2), tiny_model.null_condition(2)
    scale = torch.linspace(0, 5, 12)

    def guided(config: GuidanceConfig, frame_scale: Tensor | None = None) -> Tensor:
        return GuidedDenoiser(tiny_model.unet, conditional, unconditional, config, frame_scale)(x, t)

    v = guided(GuidanceConfig(scale=1.0), scale)
    assert torch.allclose(v, guided(GuidanceConfig(scale=1.0), scale.expand(2, -1)))
    zero, one = guided(GuidanceConfig(scale=0.0)), guided(GuidanceConfig(scale=1.0))
    assert torch.allclose(v, zero + scale * (one - zero), atol=1e-4)


def test_bad_settings_are_refused(tiny_model: TextToAudio):
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale must be"):
            GuidanceConfig(scale=scale)
    with pytest.raises(ValueError, match="rescale must lie"):
        GuidanceConfig(rescale=1.5)
    with pytest.raises(ValueError, match="interval must be"):
        GuidanceConfig(interval=(0.7, 0.3))
    for prompt in ("", "  \n"):
        with pytest.raises(ValueError, match="prompt is empty"):
            prompt_denoiser(tiny_model, [prompt], GuidanceConfig())
