from typing import Any

import pytest
import torch

from infer.hosts.chunk_times import ChunkTimes, attention_mask, runs

diffusers: Any = pytest.importorskip("diffusers")
from diffusers.models.embeddings import get_1d_rotary_pos_embed  # noqa: E402

FRAMES = 24


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return diffusers.StableAudioDiTModel(
        sample_size=FRAMES,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=12,
        cross_attention_input_dim=6,
    ).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    rotary = get_1d_rotary_pos_embed(4, FRAMES + 1, use_real=True, repeat_interleave_real=False)
    return {
        "latents": torch.randn(2, 4, FRAMES),
        "text": torch.randn(2, 5, 6),
        "globals_": torch.randn(2, 1, 12),
        "rotary": rotary,
    }


def plain(transformer, inputs, t):
    return transformer(
        inputs["latents"],
        t,
        encoder_hidden_states=inputs["text"],
        global_hidden_states=inputs["globals_"],
        rotary_embedding=inputs["rotary"],
    ).sample


@torch.no_grad()
def test_one_time_is_the_unmodified_network(transformer, inputs):
    expected = plain(transformer, inputs, torch.tensor([0.3, 0.8]))
    times = ChunkTimes(transformer)
    t = torch.tensor([[0.3], [0.8]]).expand(-1, FRAMES)
    torch.testing.assert_close(times(t=t, **inputs), expected, atol=1e-6, rtol=0)
    assert torch.equal(plain(transformer, inputs, torch.tensor([0.3, 0.8])), expected), "a plain call sees no hooks"
    times.remove()
    assert torch.equal(plain(transformer, inputs, torch.tensor([0.3, 0.8])), expected)


@torch.no_grad()
def test_several_tokens_of_equal_time_are_the_unmodified_network(transformer, inputs):
    """A second sample with other runs divides the first one's frames among six tokens of one time."""
    expected = plain(transformer, inputs, torch.tensor([0.3, 0.3]))[:1]
    t = torch.full((2, FRAMES), 0.3)
    t[1] = torch.linspace(0, 1, 6).repeat_interleave(FRAMES // 6)
    torch.testing.assert_close(ChunkTimes(transformer)(t=t, **inputs)[:1], expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_times_of_a_ramp_matter(transformer, inputs):
    ramp = torch.linspace(0, 1, 6).repeat_interleave(FRAMES // 6).expand(2, -1)
    times = ChunkTimes(transformer)
    given, flat = times(t=ramp, **inputs), times(t=torch.full_like(ramp, 0.5), **inputs)
    assert given.shape == flat.shape == (2, 4, FRAMES)
    assert (given - flat).abs().mean() > 1e-3


def test_runs_end_where_any_sample_changes():
    t = torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1, 0.9]])
    assert runs(t).tolist() == [0, 0, 1, 1, 2]


def test_a_token_sees_itself_and_all_frames_and_a_frame_its_own_token():
    mask = attention_mask(torch.tensor([0, 0, 1]))
    assert mask[:, :2].tolist() == [[True, False], [False, True], [True, False], [True, False], [False, True]]
    assert bool(mask[:, 2:].all())
