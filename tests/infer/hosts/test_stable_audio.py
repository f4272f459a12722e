from pathlib import Path

import pytest
import torch

from infer.fifo.config import QueueOptions, StreamConfig
from infer.fifo.stream import EndlessStream
from infer.guidance import guide
from infer.hosts.load import load_model
from infer.hosts.stable_audio import StableAudioOpen, rotary_table
from models.errors import UserError
from models.texts import Spoken
from tests.infer.hosts.tiny_pipelines import diffusers, write_stable_audio

PLACE = (3.0, 20.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts") / "stable_audio"
    write_stable_audio(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = diffusers.StableAudioPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def host(folder) -> StableAudioOpen:
    host = load_model(folder, torch.device("cpu"))
    assert isinstance(host, StableAudioOpen)
    return host


def test_sizes(host):
    assert (host.latent_channels, host.hop_length, host.sample_rate, host.window_frames) == (6, 16, 44_100, 64)
    assert host.max_seconds == 512


@torch.no_grad()
def test_guided_prediction_is_the_pipelines(pipeline, host):
    """What the pipeline's loop computes at one noise level: texts, durations, zeros for no text, guidance 7."""
    text = pipeline.encode_prompt("heavy rain", "cpu", True)
    start, end = pipeline.encode_duration(*PLACE, "cpu", False, 1)
    tokens = torch.cat((text, start, end), dim=1)
    x, t = torch.randn(1, 6, 64), torch.tensor([0.7])
    rotary = rotary_table(65, 4, x)
    v = pipeline.transformer(
        torch.cat((x, x)),
        t,
        encoder_hidden_states=torch.cat((torch.zeros_like(tokens), tokens)),
        global_hidden_states=torch.cat((start, end), dim=2).expand(2, -1, -1),
        rotary_embedding=rotary,
    ).sample
    expected = v[:1] + 7 * (v[1:] - v[:1])
    (row, scale), null = host.rows("heavy rain", PLACE, 7.0)[0], host.null_row(None, PLACE)
    times = t[:, None].expand(-1, 64)
    given = guide([host.network(x, times, row)], host.network(x, times, null), [scale])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_rotary_table_is_the_pipelines():
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    expected = get_1d_rotary_pos_embed(4, 65, use_real=True, repeat_interleave_real=False)
    for given, value in zip(rotary_table(65, 4, torch.zeros(())), expected, strict=True):
        torch.testing.assert_close(given, value)


@torch.no_grad()
def test_sound_is_the_pipelines_and_streams_exactly(pipeline, host):
    latents = torch.randn(1, 6, 64)
    expected = pipeline.vae.decode(latents).sample
    torch.testing.assert_close(host.decode(latents), expected, atol=1e-5, rtol=1e-4)
    decoder = host.decoder()
    streamed = torch.cat([*(decoder.push(part) for part in latents.split([10, 30, 24], dim=-1)), decoder.finish()], -1)
    torch.testing.assert_close(streamed, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_it_continues_a_sound_and_is_told_the_time(host):
    config = StreamConfig(queue=QueueOptions(context_frames=8, chunk_frames=4, num_chunks=3, steps_per_shift=1))
    stream = EndlessStream(host, "rain", config, init_audio=torch.randn(2, 2_000) * 0.1)
    sound = stream.read(0.1)
    assert sound.shape == (1, 2, 4_410)
    assert bool(torch.isfinite(sound).all())


def test_unknown_seconds_are_those_of_one_window(host):
    unknown, window = host.condition("rain", (None, None)), host.condition("rain", (0.0, host.window_seconds))
    assert torch.equal(unknown.tensors["globals"], window.tensors["globals"])


def test_it_does_not_speak(host):
    with pytest.raises(UserError, match="does not speak"):
        host.rows(Spoken("a hall", "words"), PLACE, 7.0)
