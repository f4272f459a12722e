import pytest
import torch
from torch import nn

from infer.hosts.frame_times import FrameTimes, pool_cells
from tests.infer.hosts import tiny_pipelines


def make_unet(**changes) -> nn.Module:
    torch.manual_seed(0)
    return tiny_pipelines.unet(**changes).eval()


SHAPES = [{}, {"resnet_time_scale_shift": "scale_shift"}, {"time_embedding_act_fn": "silu"}]


@pytest.fixture(params=SHAPES, ids=["audioldm", "scale_shift", "time_act"])
def unet(request) -> nn.Module:
    return make_unet(**request.param)


@pytest.mark.parametrize("frames", [32, 29])
@torch.no_grad()
def test_one_timestep_for_all_frames_is_the_unmodified_network(unet, frames):
    sample, label = torch.randn(2, 8, frames, 16), torch.randn(2, tiny_pipelines.EMBEDDING)
    expected = unet(sample, torch.tensor(250), encoder_hidden_states=None, class_labels=label).sample
    times = FrameTimes(unet)
    assert times.time_stride == 8
    timesteps = torch.full((2, frames), 250.0)
    given = times(sample, timesteps, encoder_hidden_states=None, class_labels=label)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    between = unet(sample, torch.tensor(250), encoder_hidden_states=None, class_labels=label).sample
    assert torch.equal(between, expected), "a plain call sees no hooks"
    times.remove()
    assert torch.equal(unet(sample, torch.tensor(250), encoder_hidden_states=None, class_labels=label).sample, expected)


@torch.no_grad()
def test_samples_of_a_batch_have_timesteps_of_their_own(unet):
    sample, label = torch.randn(2, 8, 32, 16), torch.randn(2, tiny_pipelines.EMBEDDING)
    timesteps = torch.stack((torch.linspace(0, 999, 32), torch.full((32,), 500.5)))
    times = FrameTimes(unet)
    together = times(sample, timesteps, encoder_hidden_states=None, class_labels=label)
    for row in range(2):
        alone = times(sample[row:][:1], timesteps[row:][:1], encoder_hidden_states=None, class_labels=label[row:][:1])
        torch.testing.assert_close(together[row:][:1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_frames_timestep_matters_and_most_of_all_to_itself():
    unet = make_unet()
    times = FrameTimes(unet)
    sample, label = torch.randn(1, 8, 64, 16), torch.randn(1, tiny_pipelines.EMBEDDING)
    low = torch.zeros(1, 64)
    high = low.clone()
    high[:, 48:] = 900
    first, second = (times(sample, t, encoder_hidden_states=None, class_labels=label) for t in (low, high))
    change = (first - second).abs().mean(dim=(0, 1, 3))
    assert change[52:].mean() > 2 * change[:40].mean()


def test_cells_are_means_of_their_frames():
    values = torch.tensor([[0.0, 2.0, 4.0, 6.0, 9.0]])
    assert pool_cells(values, 2).tolist() == [[1.0, 5.0, 9.0]]
    assert torch.equal(pool_cells(values, 1), values)
