import pytest
import torch

from infer.guidance import guide
from infer.hosts.audioldm2 import NUM_GENERATED, AudioLDM2
from infer.samplers import sample
from models.texts import Blend

pytest.importorskip("diffusers")
from tests.infer.hosts.tiny_pipelines import write_audioldm2

NOWHERE = (None, None)


@pytest.fixture(scope="module")
def pipeline_and_host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts") / "audioldm2"
    pipeline = write_audioldm2(folder)
    return pipeline, AudioLDM2.load(folder)


@torch.no_grad()
def test_the_text_is_what_the_pipeline_makes_of_it(pipeline_and_host):
    pipeline, host = pipeline_and_host
    states, mask, generated = pipeline.encode_prompt(
        "heavy rain", "cpu", 1, True, transcription="heavy rain", max_new_tokens=NUM_GENERATED
    )
    given = host.rows("heavy rain", NOWHERE, 3.5)[0][0].tensors
    torch.testing.assert_close(given["encoder_hidden_states"], generated[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given["encoder_hidden_states_1"], states[1:], atol=1e-5, rtol=1e-5)
    null = host.condition("", num_tokens=states.shape[1]).tensors
    torch.testing.assert_close(null["encoder_hidden_states"], generated[:1], atol=1e-5, rtol=1e-5)
    assert torch.equal(null["encoder_attention_mask_1"], mask[:1].bool())


@pytest.mark.parametrize("num_steps", [10, 50])
@torch.no_grad()
def test_a_clip_is_that_of_the_published_pipeline(pipeline_and_host, num_steps):
    pipeline, host = pipeline_and_host
    noise = torch.randn(1, 8, 32, 16, generator=torch.Generator().manual_seed(1))
    final: list[torch.Tensor] = []
    pipeline(
        "heavy rain",
        transcription="heavy rain",  # what the pipeline gives to a tokenizer that is not T5's own class
        audio_length_in_s=1.28,
        num_inference_steps=num_steps,
        guidance_scale=3.5,
        latents=noise.clone(),
        max_new_tokens=NUM_GENERATED,
        callback=lambda _, __, latents: final.append(latents),
        callback_steps=1,
    )
    expected = final[-1].transpose(2, 3).flatten(1, 2)
    row, scale = host.rows("heavy rain", NOWHERE, 3.5)[0]
    num_tokens = row.tensors["encoder_hidden_states_1"].shape[1]
    conditioning = row.cat(host.condition("", num_tokens=num_tokens))

    def denoise(x, t):
        v = host.network(torch.cat((x, x)), torch.cat((t, t)), conditioning)
        return guide([v[:1]], v[1:], [scale])

    timesteps = pipeline.scheduler.timesteps.flip(0)
    levels = host.clock.t_of_timestep(torch.cat((torch.zeros(1), timesteps))).float()
    given = sample(denoise, noise.transpose(2, 3).flatten(1, 2), levels, "ddim")
    assert (given - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_rows_of_several_texts_are_what_each_is_alone(pipeline_and_host):
    _, host = pipeline_and_host
    long, short = host.condition("heavy rain on a tin roof"), host.condition("wind")
    x, t = torch.randn(2, 128, 24), torch.linspace(0.1, 0.9, 24).expand(2, -1)
    both = host.network(x, t, long.cat(short))
    torch.testing.assert_close(both[:1], host.network(x[:1], t[:1], long), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1:], host.network(x[1:], t[1:], short), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_blend_is_between_its_texts(pipeline_and_host):
    _, host = pipeline_and_host
    start, half = host.condition("rain"), host.condition(Blend("rain", "a loud wind", 0.5))
    assert torch.equal(
        host.condition(Blend("rain", "wind", 0.0)).tensors["encoder_hidden_states"],
        start.tensors["encoder_hidden_states"],
    )
    assert half.tensors["encoder_hidden_states_1"].shape[1] == len("a loud wind") + 1
