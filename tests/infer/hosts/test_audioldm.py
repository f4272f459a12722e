from pathlib import Path

import pytest
import torch

from infer.guidance import guide
from infer.hosts.audioldm import AudioLDM
from infer.hosts.pipelines import locate_pipeline, pipeline_class
from infer.samplers import sample
from models.errors import UserError
from models.texts import Blend

pytest.importorskip("diffusers")
from tests.infer.hosts.tiny_pipelines import write_audioldm


@pytest.fixture(scope="module")
def pipeline_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts") / "audioldm"
    return write_audioldm(folder), folder


@pytest.fixture(scope="module")
def host(pipeline_and_folder) -> AudioLDM:
    return AudioLDM.load(locate_pipeline(pipeline_and_folder[1]))


def test_it_is_what_the_folder_says(pipeline_and_folder):
    assert pipeline_class(pipeline_and_folder[1]) == "AudioLDMPipeline"


def test_sizes_are_those_of_44_khz(host):
    assert (host.hop_length, host.window_frames, host.time_stride) == (1764, 256, 8)
    assert host.latent_channels == 8 * 16


@pytest.mark.parametrize("num_steps", [10, 50])
@torch.no_grad()
def test_a_clip_is_that_of_the_published_pipeline(pipeline_and_folder, host, num_steps):
    """Same noise, guidance 2.5, deterministic DDIM on the pipeline's own timesteps."""
    pipeline, _ = pipeline_and_folder
    noise = torch.randn(1, 8, 32, 16, generator=torch.Generator().manual_seed(1))
    final: list[torch.Tensor] = []
    pipeline(
        "heavy rain",
        audio_length_in_s=1.28,
        num_inference_steps=num_steps,
        guidance_scale=2.5,
        latents=noise.clone(),
        callback=lambda _, __, latents: final.append(latents),
        callback_steps=1,
    )
    expected = final[-1].transpose(2, 3).flatten(1, 2)
    (row, scale), null = host.rows("heavy rain", (None, None), 2.5)[0], host.null_row(None, (None, None))
    conditioning = row.cat(null)

    def denoise(x, t):
        v = host.network(torch.cat((x, x)), torch.cat((t, t)), conditioning)
        return guide([v[:1]], v[1:], [scale])

    timesteps = pipeline.scheduler.timesteps.flip(0)
    levels = host.clock.t_of_timestep(torch.cat((torch.zeros(1), timesteps))).float()
    given = sample(denoise, noise.transpose(2, 3).flatten(1, 2), levels, "ddim")
    assert (given - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_a_clip_decodes_as_the_pipeline_does(pipeline_and_folder, host):
    pipeline, _ = pipeline_and_folder
    latents = torch.randn(1, 8, 32, 16)
    mel = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(host.mel(latents.transpose(2, 3).flatten(1, 2)), mel.squeeze(1), atol=1e-5, rtol=0)
    audio = host.decode(latents.transpose(2, 3).flatten(1, 2))
    assert audio.shape == (1, 2, 32 * 1764)


@torch.no_grad()
def test_a_stream_decodes_every_frame_once_whatever_the_pieces(host):
    latents = torch.randn(2, 128, 100)
    whole, pieces = host.decoder(), host.decoder()
    expected = torch.cat((whole.push(latents), whole.finish()), dim=-1)
    given = torch.cat([*(pieces.push(part) for part in latents.split([1, 60, 8, 31], dim=-1)), pieces.finish()], dim=-1)
    assert expected.shape == (2, 2, 100 * 1764)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_resumed_decoding_is_the_same(host):
    latents = torch.randn(1, 128, 100)
    first, second = host.decoder(), host.decoder()
    start = first.push(latents[..., :70])
    second.load_state_dict(first.state_dict())
    resumed = torch.cat((second.push(latents[..., 70:]), second.finish()), dim=-1)
    continued = torch.cat((first.push(latents[..., 70:]), first.finish()), dim=-1)
    assert start.shape[-1] > 0
    assert torch.equal(resumed, continued)


def test_texts_are_vectors_of_norm_one_and_blends_between_them(host):
    rain, wind = host.vector("rain"), host.vector("wind")
    half = host.vector(Blend("rain", "wind", 0.5))
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(1))
    torch.testing.assert_close(half @ rain.T, half @ wind.T)
    assert torch.equal(host.vector(Blend("rain", "wind", 0.0)), rain)


def test_noise_time_is_the_hosts_own_clock(host):
    t = host.noise_time(torch.linspace(0, 1, 5))
    assert t[0] == 0
    assert bool((t.diff() > 0).all())
    torch.testing.assert_close(t[-1], torch.tensor(0.9924), atol=1e-4, rtol=0)


def test_a_part_that_is_missing_is_named(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioLDMPipeline"}')
    with pytest.raises(UserError, match="has no part text_encoder"):
        AudioLDM.load(tmp_path)


def test_a_folder_without_a_pipeline_says_what_is_expected(tmp_path: Path):
    with pytest.raises(UserError, match=r"expected a folder with model_index\.json"):
        locate_pipeline(tmp_path)
